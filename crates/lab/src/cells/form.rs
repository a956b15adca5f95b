//! The statements of the cells, and the forms of the protocol in which they are sent.

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One query in a message.
    Simple,
    /// Parsed, bound and executed one by one.
    Extended,
    /// Several before one `Sync`, and several of these before an answer is waited for.
    Pipelined,
    /// Parsed once, by name.
    Prepared,
}

impl Form {
    pub const ALL: [Form; 4] = [Form::Simple, Form::Extended, Form::Pipelined, Form::Prepared];

    pub fn word(self) -> &'static str {
        match self {
            Form::Simple => "simple",
            Form::Extended => "extended",
            Form::Pipelined => "pipelined",
            Form::Prepared => "prepared",
        }
    }
}

/// What clients of the cells execute. A number is that of the row that is written; none is written twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Begin,
    Commit,
    Rollback,
    Insert(i64),
    /// The row is written after a while.
    SlowInsert(i64),
    /// The transaction's commit takes a while.
    InsertForSlowCommit(i64),
    Sleep,
    /// What the session has set at its beginning.
    Mark,
}

/// Whether anything is left under way when the fault hits must not be a matter of luck. It outlasts every failover of these cells.
pub(super) const SLOW_SECONDS: u32 = 6;

/// What the slow commit waits in: a trigger that PostgreSQL runs at the end of the transaction.
pub(super) const TABLES: &str = "CREATE TABLE cell_writes (id bigint NOT NULL);
    CREATE TABLE cell_slow_commits (id bigint NOT NULL);
    CREATE FUNCTION cell_wait() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_sleep(6); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON cell_slow_commits DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION cell_wait()";

impl Statement {
    /// One of each kind.
    pub(super) const ALL: [Statement; 8] = [
        Statement::Begin,
        Statement::Commit,
        Statement::Rollback,
        Statement::Insert(0),
        Statement::SlowInsert(0),
        Statement::InsertForSlowCommit(0),
        Statement::Sleep,
        Statement::Mark,
    ];

    pub(super) fn text(self) -> &'static str {
        match self {
            Statement::Begin => "BEGIN",
            Statement::Commit => "COMMIT",
            Statement::Rollback => "ROLLBACK",
            Statement::Insert(_) => "INSERT INTO cell_writes VALUES ($1)",
            Statement::SlowInsert(_) => "INSERT INTO cell_writes SELECT $1::bigint FROM pg_sleep(6)",
            Statement::InsertForSlowCommit(_) => "INSERT INTO cell_slow_commits VALUES ($1)",
            Statement::Sleep => "SELECT pg_sleep(6)",
            Statement::Mark => "SELECT current_setting('lab.mark')",
        }
    }

    /// As a simple query has it.
    pub(super) fn with_value(self) -> String {
        self.value()
            .map_or_else(|| self.text().to_owned(), |value| self.text().replace("$1", &value.to_string()))
    }

    /// The name under which it is prepared.
    pub(super) fn name(self) -> &'static str {
        match self {
            Statement::Begin => "begin",
            Statement::Commit => "commit",
            Statement::Rollback => "rollback",
            Statement::Insert(_) => "insert",
            Statement::SlowInsert(_) => "slow_insert",
            Statement::InsertForSlowCommit(_) => "insert_for_slow_commit",
            Statement::Sleep => "sleep",
            Statement::Mark => "mark",
        }
    }

    /// The row that it writes.
    pub(super) fn value(self) -> Option<i64> {
        match self {
            Statement::Insert(id) | Statement::SlowInsert(id) | Statement::InsertForSlowCommit(id) => {
                Some(id)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_has_a_name_of_its_own_and_the_same_wait() {
        let names: std::collections::BTreeSet<&str> = Statement::ALL.iter().map(|one| one.name()).collect();
        assert_eq!(names.len(), Statement::ALL.len());
        assert_eq!(Statement::Insert(7).with_value(), "INSERT INTO cell_writes VALUES (7)");
        let wait = format!("pg_sleep({SLOW_SECONDS})");
        let texts = [TABLES, Statement::Sleep.text(), Statement::SlowInsert(0).text()];
        assert!(texts.iter().all(|text| text.contains(&wait)));
    }
}
