use std::path::PathBuf;

use super::*;

/// Files of a test, removed at its end.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[(&str, &str)]) -> Files {
        let path = std::env::temp_dir().join(format!("mainstay-import-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a fresh directory");
        for (name, text) in files {
            std::fs::write(path.join(name), text).expect("written");
        }
        Files(path)
    }

    fn translated(&self) -> Result<Translation, String> {
        let file = self.0.join("pgbouncer.ini");
        let found = ini::read(&file).and_then(|entries| translate::translate(&entries));
        found.map_err(|error| format!("{error:#}").replace(&format!("{}/", self.0.display()), ""))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn table(name: &str, ini: &str) -> (String, Vec<String>) {
    let found = Files::new(name, &[("pgbouncer.ini", ini)]).translated().expect("it is well written");
    let notes = found.notes.iter().map(|note| format!("{}: {}", note.line, note.setting)).collect();
    (render(&found), notes)
}

fn error(name: &str, ini: &str) -> String {
    Files::new(name, &[("pgbouncer.ini", ini)]).translated().expect_err("it is wrong")
}

#[test]
fn an_empty_file_means_the_defaults_of_pgbouncer() {
    let (table, notes) = table("empty", "[pgbouncer]\n");
    let lines: Vec<&str> = table.lines().map(|line| line.split("  #").next().unwrap_or_default()).collect();
    assert_eq!(
        lines,
        [
            "[sql_proxy]",
            "listen = \"127.0.0.1:6432\"",
            "listen_readonly = \"127.0.0.1:6433\"",
            "max_client_conn = 100",
            "pool_mode = \"session\"",
            "query_wait_timeout = \"120s\"",
        ]
    );
    assert_eq!(notes, [""; 0]);
}

#[test]
fn settings_databases_and_roles_are_carried_over() {
    let (table, notes) = table(
        "all",
        "; a comment\n# another\n[databases]\n\
         shop = host=10.0.0.1 dbname=shop pool_size=7 reserve_pool=2\n\
         \"web shop\" = pool_mode=session max_db_connections='30'\n\
         * = host=10.0.0.1\n\
         [users]\nbatch = pool_mode=session max_user_connections=3\n\
         [pgbouncer]\nlisten_addr = *\nlisten_port = 7432\nauth_type = scram-sha-256\npool_mode = session\n\
         pool_mode = transaction\nmax_client_conn = 500\nquery_wait_timeout = 2.5\nserver_idle_timeout=60\n\
         server_reset_query = DISCARD ALL\nreserve_pool_timeout = 3\n",
    );
    for line in [
        "listen = \"0.0.0.0:7432\"",
        "listen_readonly = \"0.0.0.0:7433\"  # standbys, which PgBouncer does not know; \"\" for nowhere",
        "pool_mode = \"transaction\"",
        "max_client_conn = 500",
        "query_wait_timeout = \"2500ms\"",
        "server_idle_timeout = \"60s\"",
        "reserve_pool_timeout = \"3s\"",
        "[sql_proxy.databases.shop]\npool_size = 7\nreserve_pool_size = 2",
        "[sql_proxy.databases.\"web shop\"]\npool_mode = \"session\"\nmax_db_connections = 30",
        "[sql_proxy.users.batch]\npool_mode = \"session\"\nmax_user_connections = 3",
    ] {
        assert!(table.contains(line), "{line} is not in\n{table}");
    }
    assert!(table.parse::<toml::Table>().is_ok(), "{table}");
    assert_eq!(notes, ["4: shop: host=10.0.0.1", "6: *: host=10.0.0.1"]);
}

#[test]
fn what_has_no_counterpart_is_said_with_its_line() {
    let (table, notes) = table(
        "notes",
        "[pgbouncer]\nauth_type = md5\nauth_query = SELECT 1\nserver_login_retry = 1\nserver_lifetime = 0\n\
         tcp_keepalive = 1\napplication_name_add_host = 1\nfantasy = 1\nclient_tls_sslmode = prefer\n\
         server_reset_query = SELECT f()\nlisten_addr = 10.0.0.1, 10.0.0.2\ndefault_pool_size = 0\n\
         [databases]\nold = dbname=new user=app password=hunter2\n",
    );
    assert!(table.contains("listen = \"10.0.0.1:6432\"") && !table.contains("server_lifetime"), "{table}");
    let expected = [
        "11: listen_addr = 10.0.0.1, 10.0.0.2",
        "2: auth_type = md5",
        "3: auth_query = SELECT 1",
        "4: server_login_retry = 1",
        "5: server_lifetime = 0",
        "6: tcp_keepalive = 1",
        "7: application_name_add_host = 1",
        "8: fantasy = 1",
        "10: server_reset_query = SELECT f()",
        "12: default_pool_size = 0",
        "14: old: dbname=new",
        "14: old: user=app",
        "14: old: password",
    ];
    assert_eq!(notes, expected);
}

#[test]
fn what_is_asked_of_clients_certificates_becomes_a_rule() {
    for (mode, auth_type, rule) in [
        ("require", "scram-sha-256", "hba = [\"hostssl all all all scram-sha-256\"]"),
        ("verify-ca", "md5", "hba = [\"hostssl all all all scram-sha-256 clientcert=verify-ca\"]"),
        ("verify-full", "cert", "hba = [\"hostssl all all all scram-sha-256 clientcert=verify-full\"]"),
    ] {
        let ini = format!(
            "[pgbouncer]\nauth_type = {auth_type}\nclient_tls_sslmode = {mode}\nclient_tls_ca_file = /etc/ca.crt\n"
        );
        let (table, _) = table(&format!("tls-{mode}"), &ini);
        assert!(table.contains(rule) && table.contains("client_tls_ca_file = \"/etc/ca.crt\""), "{table}");
    }
    let (table, notes) = table("tls-hba", "[pgbouncer]\nauth_type = hba\nclient_tls_sslmode = require\n");
    assert!(!table.contains("hba =") && notes == ["2: auth_type = hba"], "{table} {notes:?}");
}

#[test]
fn no_secret_is_shown() {
    let users = "\"a\" \"hunter2\"\n\"b\" \"md50123456789abcdef0123456789abcdef\"\n\"c\" \"SCRAM-SHA-256$4096:x$y:z\"\n";
    let ini = "[databases]\nx = password='hunter2' connect_query='SELECT ''hunter2'''\n[pgbouncer]\nauth_file = users.txt\n";
    let found = Files::new("secrets", &[("pgbouncer.ini", ini), ("users.txt", users)]).translated().unwrap();
    let all = format!("{}{:?}", render(&found), found.notes);
    assert!(!all.contains("hunter2") && !all.contains("0123456789abcdef") && !all.contains("4096"), "{all}");
    let advice = &found.notes.iter().find(|note| note.setting.starts_with("auth_file")).unwrap().instead;
    assert!(
        advice.contains("It has 3 roles") && advice.contains("none: b;") && advice.contains("plain text: a;")
    );
    let error = error("secret-error", "[databases]\nx = password=a hunter2\n");
    assert!(error.starts_with("pgbouncer.ini:2: x has something") && !error.contains("hunter2"), "{error}");
}

#[test]
fn included_files_go_on_in_their_section() {
    let files = [
        ("pgbouncer.ini", "[pgbouncer]\n%include more.ini\n%include\tusers.ini\n"),
        ("more.ini", "max_client_conn = 7\n[databases]\na = pool_size=3\n"),
        ("users.ini", "[users]\nb = pool_mode=statement\n"),
    ];
    let table = render(&Files::new("include", &files).translated().unwrap());
    for line in ["max_client_conn = 7", "[sql_proxy.databases.a]\npool_size = 3", "[sql_proxy.users.b]"] {
        assert!(table.contains(line), "{table}");
    }
    let circle = error("circle", "%include pgbouncer.ini\n");
    assert!(circle.contains("is it a circle?") && !circle.contains('\n'), "{circle}");
    let missing = error("missing", "[pgbouncer]\n\n%include nothing.ini\n");
    assert!(missing.starts_with("pgbouncer.ini:3: %include: nothing.ini cannot be read"), "{missing}");
}

#[test]
fn what_is_wrong_is_one_line_with_its_place() {
    for (ini, expected) in [
        ("a = 1\n", "pgbouncer.ini:1: this stands in no section"),
        ("[pgbouncer\n", "pgbouncer.ini:1: the section has no end"),
        ("[tables]\n", "pgbouncer.ini:1: PgBouncer has no section [tables]; it has [pgbouncer], [databases]"),
        ("[pgbouncer]\n\npool_mode = fast\n", "pgbouncer.ini:3: pool_mode \"fast\" is none of session,"),
        (
            "[pgbouncer]\nmax_client_conn = many\n",
            "pgbouncer.ini:2: max_client_conn \"many\" is no whole number",
        ),
        (
            "[pgbouncer]\nquery_timeout = 5s\n",
            "pgbouncer.ini:2: query_timeout \"5s\" is no time; PgBouncer has seconds",
        ),
        ("[pgbouncer]\nlisten_port = 0\n", "pgbouncer.ini:2: listen_port \"0\" is no port"),
        ("[pgbouncer]\nwhat is this\n", "pgbouncer.ini:2: this is no line of the form `name = value`"),
        ("[databases]\n\"a = b\n", "pgbouncer.ini:2: the name's quotation mark is not closed"),
        ("[databases]\na = host='b\n", "pgbouncer.ini:2: a has something that is not of the form name=value"),
    ] {
        let found = error("wrong", ini);
        assert!(found.starts_with(expected) && !found.contains('\n'), "{ini:?}: {found}");
    }
}

#[test]
fn no_pool_keeps_more_than_it_may_have() {
    let (table, _) = table(
        "least",
        "[pgbouncer]\nmin_pool_size = 30\n[databases]\na = pool_size=4\nb = pool_size=40 min_pool_size=35\n",
    );
    assert!(table.contains("min_pool_size = 20  # no more than the pool may have"), "{table}");
    assert!(table.contains("[sql_proxy.databases.a]\npool_size = 4\nmin_pool_size = 4  #"), "{table}");
    assert!(table.contains("[sql_proxy.databases.b]\npool_size = 40\nmin_pool_size = 35\n"), "{table}");
}

/// As the whole file is read at the end: the member's, with the imported table in it.
#[test]
fn a_name_is_quoted_where_toml_wants_it() {
    assert_eq!(key("a_b-1"), "a_b-1");
    assert_eq!(key("web shop"), "\"web shop\"");
    assert_eq!(key("a\"b"), "\"a\\\"b\"");
    assert_eq!(key(""), "\"\"");
}
