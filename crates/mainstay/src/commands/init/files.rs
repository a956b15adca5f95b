//! The configuration file as `init` writes it: short, with a line of why for each part.

use std::fmt::Write as _;

use super::Answers;

pub(super) fn configuration(answers: &Answers, key: &str) -> String {
    let Answers { cluster, member, directory, address, postgres, http, lease, .. } = answers;
    let mut text = format!(
        "# One member of a Mainstay cluster. Written by `mainstay init`; check it with `mainstay config check`.\n\
         cluster = \"{cluster}\"\n\
         member = \"{member}\"\n\
         # Keys, state and data lie below it.\n\
         directory = \"{}\"\n\
         # How long a primary may go on without a majority; the longest that writes stay away when a machine dies is a\n\
         # little more. The same on all members.\n\
         lease = \"{lease}\"\n",
        directory.display()
    );
    let lines: Vec<String> =
        answers.allow.iter().map(|network| format!("\"hostssl all all {network} scram-sha-256\"")).collect();
    let _ = write!(
        text,
        "\n[postgresql]\n# Who may connect, as lines of pg_hba.conf: with TLS and a password.\nhba = [{}]\n",
        lines.join(", ")
    );
    if !answers.names.is_empty() {
        text.push_str(&names(&answers.names));
    }
    if let Some(database) = &answers.database {
        let _ = write!(
            text,
            "\n# Made with the first data directory. The password is in the file.\n\
             [bootstrap]\ndatabase = \"{database}\"\nrole = \"{}\"\npassword_file = \"{}\"\n",
            answers.role,
            directory.join("app.password").display()
        );
    }
    text.push_str(&own_row(
        member.as_str(),
        &[
            ("address", address.to_string()),
            ("postgres", postgres.to_string()),
            ("http", http.to_string()),
            ("key", key.to_owned()),
        ],
    ));
    text
}

/// A comment: the names are in the certificate already.
fn names(names: &[String]) -> String {
    format!("# Clients may also say: {} (they stand in this server's certificate).\n", names.join(", "))
}

/// This member's own row; the others are known from the cluster's record.
pub(crate) fn own_row(member: &str, fields: &[(&str, String)]) -> String {
    let mut text = format!(
        "\n# This member: where the others reach it, where PostgreSQL listens, where health checks ask. The other members are\n\
         # known from the cluster's record.\n[members.{member}]\n"
    );
    for (name, value) in fields {
        let _ = writeln!(text, "{name} = \"{value}\"");
    }
    text
}
