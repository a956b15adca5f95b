//! What a running server says of its parameters.

use serde::Deserialize;

use super::{Session, SessionError, column};

/// A parameter that is not as its file says, or that somebody has set by `ALTER SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Setting {
    pub name: String,
    /// What the server runs with, with its unit.
    pub value: String,
    /// What the files say; `None` if they say nothing of it any more.
    pub file: Option<String>,
    pub pending_restart: bool,
    /// Whether it comes from `postgresql.auto.conf`.
    pub by_alter_system: bool,
}

/// What is remarkable about a server's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Settings {
    pub settings: Vec<Setting>,
    /// Lines of the files that the server could not take, but for those that wait for a restart.
    pub errors: Vec<String>,
}

const QUERY: &str = "WITH files AS (
        SELECT DISTINCT ON (name) name, setting, error, sourcefile FROM pg_file_settings
        WHERE name IS NOT NULL ORDER BY name, seqno DESC
    ), remarkable AS (
        SELECT s.name, current_setting(s.name) AS value, f.setting AS file, s.pending_restart,
            coalesce(f.sourcefile LIKE '%/postgresql.auto.conf', false) AS by_alter_system
        FROM pg_settings s LEFT JOIN files f USING (name)
        WHERE s.pending_restart OR f.sourcefile LIKE '%/postgresql.auto.conf'
    )
    SELECT json_build_object(
        'settings', (SELECT coalesce(json_agg(r ORDER BY name), '[]') FROM remarkable r),
        'errors', (SELECT coalesce(json_agg(e), '[]') FROM (
            SELECT coalesce(f.name || ': ', '') || f.error AS e FROM pg_file_settings f
            LEFT JOIN pg_settings s ON s.name = f.name
            WHERE f.error IS NOT NULL AND NOT coalesce(s.pending_restart, false)
            UNION ALL
            SELECT 'pg_hba.conf line ' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL
        ) errors)
    )::text";

impl Session {
    /// Reads the configuration files as the server would, so not for every tick.
    pub async fn settings(&self) -> Result<Settings, SessionError> {
        const WHAT: &str = "looking at the parameters";
        let row = self.row(WHAT, QUERY, &[]).await?;
        let text: String = column(&row, WHAT)?;
        serde_json::from_str(&text).map_err(|_| SessionError::Answer { what: WHAT, answer: text })
    }

    /// Where the server looks for libraries.
    pub async fn library_directory(&self) -> Result<String, SessionError> {
        const SQL: &str = "SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'";
        let row = self.row("looking for the libraries", SQL, &[]).await?;
        column(&row, "looking for the libraries")
    }
}
