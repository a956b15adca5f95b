//! One wanted database, compared with what there is and brought there.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::{Access, Report, WantedDatabase, WantedRole, quote_identifier, quote_literal, verifier};
use crate::session::{Session, SessionError};

fn cell<'a, T: FromSql<'a>>(row: &'a Row, index: usize, what: &'static str) -> Result<T, SessionError> {
    row.try_get(index).map_err(|_| SessionError::Answer { what, answer: format!("{row:?}") })
}

pub(super) async fn roles(
    session: &Session,
    database: &WantedDatabase,
    report: &mut Report,
) -> Result<(), SessionError> {
    role(session, &database.owner, report).await?;
    for (wanted, _) in &database.roles {
        role(session, wanted, report).await?;
    }
    Ok(())
}

async fn role(session: &Session, wanted: &WantedRole, report: &mut Report) -> Result<(), SessionError> {
    const WHAT: &str = "looking at a role";
    const SQL: &str = "SELECT rolpassword, rolcanlogin, rolsuper FROM pg_authid WHERE rolname = $1";
    const CHANGE: &str = "making or changing a role";
    let name = &wanted.name;
    let quoted = quote_identifier(name);
    let rows = session.query(WHAT, SQL, &[name]).await?;
    let Some(row) = rows.first() else {
        let password = wanted.password.as_deref().map(|password| quote_literal(&verifier(password)));
        let clause = password.map_or_else(String::new, |verifier| format!(" PASSWORD {verifier}"));
        session.execute(CHANGE, &format!("CREATE ROLE {quoted} LOGIN{clause}")).await?;
        report.done.push(format!("made role {name}"));
        return Ok(());
    };
    let stored: Option<String> = cell(row, 0, WHAT)?;
    if !cell::<bool>(row, 1, WHAT)? {
        session.execute(CHANGE, &format!("ALTER ROLE {quoted} LOGIN")).await?;
        report.done.push(format!("let role {name} log in"));
    }
    if cell::<bool>(row, 2, WHAT)? {
        report.left.push(format!(
            "role {name} is a superuser, whom nothing stops: ALTER ROLE {quoted} NOSUPERUSER, if that is not meant"
        ));
    }
    if let Some(password) = &wanted.password
        && !stored.is_some_and(|stored| super::verifier::is_of(&stored, password))
    {
        let literal = quote_literal(&verifier(password));
        session.execute(CHANGE, &format!("ALTER ROLE {quoted} PASSWORD {literal}")).await?;
        report.done.push(format!("changed the password of role {name}"));
    }
    Ok(())
}

pub(super) async fn database(
    session: &Session,
    wanted: &WantedDatabase,
    report: &mut Report,
) -> Result<(), SessionError> {
    const WHAT: &str = "looking at a database";
    const SQL: &str = "SELECT rolname::text, rolsuper, pg_encoding_to_char(encoding)::text, datcollate::text
        FROM pg_database JOIN pg_roles r ON r.oid = datdba WHERE datname = $1";
    const CHANGE: &str = "making or changing a database";
    let (name, owner) = (&wanted.name, &wanted.owner.name);
    let (quoted, quoted_owner) = (quote_identifier(name), quote_identifier(owner));
    let rows = session.query(WHAT, SQL, &[name]).await?;
    let Some(row) = rows.first() else {
        let mut sql = format!("CREATE DATABASE {quoted} OWNER {quoted_owner}");
        if wanted.encoding.is_some() || wanted.locale.is_some() {
            // Only the untouched template lets both be chosen.
            sql.push_str(" TEMPLATE template0");
        }
        for (word, value) in [("ENCODING", &wanted.encoding), ("LOCALE", &wanted.locale)] {
            if let Some(value) = value {
                sql.push_str(&format!(" {word} {}", quote_literal(value)));
            }
        }
        session.execute(CHANGE, &sql).await?;
        report.done.push(format!("made database {name}"));
        return Ok(());
    };
    let present: String = cell(row, 0, WHAT)?;
    if present != *owner {
        let alter = format!("ALTER DATABASE {quoted} OWNER TO {quoted_owner}");
        // Of another application's it is for a person to say.
        if cell::<bool>(row, 1, WHAT)? {
            session.execute(CHANGE, &alter).await?;
            report.done.push(format!("gave database {name} to {owner}"));
        } else {
            report.left.push(format!(
                "database {name} belongs to {present}, not to {owner}: {alter}, if that is meant"
            ));
        }
    }
    let found: [(&str, &Option<String>, String); 2] = [
        ("encoding", &wanted.encoding, cell(row, 2, WHAT)?),
        ("locale", &wanted.locale, cell(row, 3, WHAT)?),
    ];
    for (word, wanted, found) in found {
        let plain = |text: &str| text.to_ascii_lowercase().replace('-', "");
        if wanted.as_ref().is_some_and(|wanted| plain(wanted) != plain(&found)) {
            report.left.push(format!(
                "database {name} has {word} {found}, which cannot be changed: dump it, and restore it into a new one"
            ));
        }
    }
    Ok(())
}

/// What is done with a session in the database itself.
pub(super) async fn inside(
    session: &Session,
    wanted: &WantedDatabase,
    report: &mut Report,
) -> Result<(), SessionError> {
    extensions(session, wanted, report).await?;
    for (role, access) in &wanted.roles {
        privileges(session, wanted, &role.name, *access, report).await?;
    }
    Ok(())
}

async fn extensions(
    session: &Session,
    wanted: &WantedDatabase,
    report: &mut Report,
) -> Result<(), SessionError> {
    const WHAT: &str = "looking at an extension";
    const SQL: &str = "SELECT installed_version IS NOT NULL FROM pg_available_extensions WHERE name = $1";
    for extension in &wanted.extensions {
        let rows = session.query(WHAT, SQL, &[extension]).await?;
        match rows.first().map(|row| cell::<bool>(row, 0, WHAT)).transpose()? {
            Some(true) => {}
            Some(false) => {
                // Our own search path names no schema that it could be put into.
                let sql = format!(
                    "SET search_path = public; CREATE EXTENSION {} CASCADE; RESET search_path",
                    quote_identifier(extension)
                );
                session.execute("making an extension", &sql).await?;
                report.done.push(format!("made extension {extension} in {}", wanted.name));
            }
            None => report.left.push(format!(
                "extension {extension} of {} is not installed: install its package on every data member",
                wanted.name
            )),
        }
    }
    Ok(())
}

/// The schemas of the owner, with whether `role` has everything there that it should, and whether it has too much.
const SCHEMAS: &str = "SELECT n.nspname::text,
        has_schema_privilege(r.oid, n.oid, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_class c, unnest($3::text[]) p
            WHERE c.relnamespace = n.oid AND c.relowner = o.oid AND c.relkind IN ('r', 'p', 'v', 'm')
                AND NOT has_table_privilege(r.oid, c.oid, p))
        AND NOT EXISTS (SELECT FROM pg_class c, unnest($4::text[]) p
            WHERE c.relnamespace = n.oid AND c.relowner = o.oid AND c.relkind = 'S'
                AND NOT has_sequence_privilege(r.oid, c.oid, p))
        AND (SELECT count(*) FROM unnest($3::text[]) p
            WHERE EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
                WHERE d.defaclrole = o.oid AND d.defaclnamespace = n.oid AND d.defaclobjtype = 'r'
                    AND a.grantee = r.oid AND a.privilege_type = p)) = cardinality($3::text[]),
        EXISTS (SELECT FROM pg_class c
            WHERE c.relnamespace = n.oid AND c.relowner = o.oid AND c.relkind IN ('r', 'p')
                AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE'))
    FROM pg_namespace n, pg_roles o, pg_roles r
    WHERE o.rolname = $1 AND r.rolname = $2 AND NOT r.rolsuper
        AND (n.nspname = 'public' OR n.nspowner = o.oid)";

async fn privileges(
    session: &Session,
    wanted: &WantedDatabase,
    role: &str,
    access: Access,
    report: &mut Report,
) -> Result<(), SessionError> {
    const WHAT: &str = "looking at privileges";
    let (tables, sequences): (&[&str], &[&str]) = match access {
        Access::ReadOnly => (&["SELECT"], &["SELECT"]),
        Access::ReadWrite => (&["SELECT", "INSERT", "UPDATE", "DELETE"], &["SELECT", "USAGE"]),
    };
    let owner = &wanted.owner.name;
    for row in session.query(WHAT, SCHEMAS, &[owner, &role, &tables, &sequences]).await? {
        let schema: String = cell(&row, 0, WHAT)?;
        if access == Access::ReadOnly && cell::<bool>(&row, 2, WHAT)? {
            report.left.push(format!(
                "role {role} may write in schema {schema} of {}, though it is read-only: REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {} FROM {}",
                wanted.name,
                quote_identifier(&schema),
                quote_identifier(role)
            ));
        }
        if cell::<bool>(&row, 1, WHAT)? {
            continue;
        }
        let (quoted, to) = (quote_identifier(&schema), quote_identifier(role));
        let (tables, sequences) = (tables.join(", "), sequences.join(", "));
        let defaults =
            format!("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {quoted}", quote_identifier(owner));
        let sql = format!(
            "GRANT USAGE ON SCHEMA {quoted} TO {to};
             GRANT {tables} ON ALL TABLES IN SCHEMA {quoted} TO {to};
             GRANT {sequences} ON ALL SEQUENCES IN SCHEMA {quoted} TO {to};
             {defaults} GRANT {tables} ON TABLES TO {to};
             {defaults} GRANT {sequences} ON SEQUENCES TO {to}"
        );
        session.execute("granting privileges", &sql).await?;
        report.done.push(format!("let role {role} use schema {schema} of {}", wanted.name));
    }
    Ok(())
}
