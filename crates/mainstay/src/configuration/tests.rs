use std::path::Path;

use super::*;

const KEY_1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const KEY_2: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A directory with the password file that every configuration needs.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("mainstay-configuration-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a fresh directory");
        let directory = Directory(path);
        directory.write("replication.password", "secret-of-the-test\n", 0o600);
        directory
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its own file");
    }

    fn parse(&self, text: &str) -> Result<Configuration, String> {
        let file = self.0.join("mainstay.toml");
        parse(&file, text).map_err(|error| error.to_string().replace(&format!("{}/", self.0.display()), ""))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn good() -> String {
    format!(
        "cluster = \"site\"\n\
         member = \"m1\"\n\
         lease = \"3s\"\n\
         [postgresql]\n\
         parameters = {{ work_mem = \"8MB\", max_connections = 50 }}\n\
         [members.m1]\n\
         address = \"10.0.0.1:7400\"\n\
         postgres = \"10.0.0.1:5432\"\n\
         http = \"10.0.0.1:7480\"\n\
         key = \"{KEY_1}\"\n\
         [members.m2]\n\
         address = \"10.0.0.2:7400\"\n\
         postgres = \"10.0.0.2:5432\"\n\
         http = \"10.0.0.2:7480\"\n\
         key = \"{KEY_2}\"\n"
    )
}

#[test]
fn a_good_file_is_understood() {
    let directory = Directory::new("good");
    let configuration = directory.parse(&good()).expect("it is good");
    assert_eq!(configuration.members.len(), 2);
    assert_eq!(configuration.lease, std::time::Duration::from_secs(3));
    assert_eq!(configuration.postgresql.parameters["max_connections"], "50");
    assert_eq!(configuration.postgresql.replication_password, "secret-of-the-test");
    assert!(configuration.tls.key.ends_with("tls/member.key"));
    assert_eq!(configuration.verify_every, None, "only when it is asked for");
    assert!(configuration.addresses.is_empty());
    let table = "[[vip]]\naddress = \"10.0.0.9\"\ninterface = \"eth0.5\"\n[[vip]]\naddress = \"fd00::9\"\n[postgresql]";
    let addresses = directory.parse(&good().replace("[postgresql]", table)).expect("it is good").addresses;
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[0].interface.as_deref(), Some("eth0.5"));
    let scheduled = good().replace("[postgresql]", "[verify]\nevery = \"1h\"\n[postgresql]");
    let scheduled = directory.parse(&scheduled).expect("it is good");
    assert_eq!(scheduled.verify_every, Some(std::time::Duration::from_secs(3600)));
}

/// Each row: what is replaced in the good file, by what, and what the one-line error must say.
const BAD: &[(&str, &str, &str)] = &[
    ("lease = \"3s\"", "leese = \"3s\"", "mainstay.toml:3: unknown key \"leese\"; did you mean \"lease\"?"),
    ("work_mem", "fsync", "mainstay.toml:5: postgresql parameter `fsync` cannot be set"),
    ("cluster = \"site\"\n", "", "missing field \"cluster\""),
    ("cluster = \"site\"", "cluster = \"a b\"", "mainstay.toml:1: cluster \"a b\" is not 1 to 64 letters"),
    (
        "member = \"m1\"",
        "member = \"m7\"",
        "mainstay.toml:2: member \"m7\" has no table [members.m7]; there are: m1, m2",
    ),
    ("member = \"m1\"", "member = \"M1\"", "mainstay.toml:2: \"M1\" is not a member name"),
    ("lease = \"3s\"", "lease = \"3\"", "mainstay.toml:3: \"3\" is not a length of time"),
    ("lease = \"3s\"", "lease = \"200ms\"", "mainstay.toml:3: lease \"200ms\" is not between"),
    ("lease = \"3s\"", "on_crash = \"panic\"", "mainstay.toml:3: on_crash \"panic\" is neither"),
    ("10.0.0.2:7400", "10.0.0.1:7400", "m2 has the same address 10.0.0.1:7400 as m1"),
    ("10.0.0.2:7480", "10.0.0.2:5432", "m2 uses 10.0.0.2:5432 twice"),
    ("10.0.0.2:7400", "db2.example.org:7400", "is not an IP address with a port"),
    ("10.0.0.2:7400", "0.0.0.0:7400", "is no address that the other members can reach"),
    ("10.0.0.2:7400", "10.0.0.2:0", "needs a port between 1 and 65535"),
    (KEY_2, KEY_1, "m2 has the same key as m1"),
    (KEY_2, "sha256:12", "key is not a fingerprint"),
    ("[members.m2]", "[members.m1]", "mainstay.toml:11: "),
    ("postgres = \"10.0.0.2:5432\"\n", "", "data member m2 needs \"postgres\""),
    ("postgres = \"10.0.0.2:5432\"", "kind = \"arbiter\"", "kind \"arbiter\" is neither"),
    (
        "[postgresql]",
        "[postgresq]",
        "mainstay.toml:4: unknown key \"postgresq\"; did you mean \"postgresql\"?",
    ),
    ("cluster = \"site\"", "cluster = site", "mainstay.toml:1: "),
    ("max_connections = 50", "max_connections = [1]", "must be a text, a number, true or false"),
    ("max_connections = 50", "max_wal_senders = 2", "mainstay.toml:5: "),
    (
        "[postgresql]",
        "[postgresql]\nhba = [\"host all all 10.0.0.0/8 scram\"]",
        "mainstay.toml:5: pg_hba line \"host all all 10.0.0.0/8 scram\" is refused: \"scram\" is no method",
    ),
    (
        "[postgresql]",
        "[postgresql]\nhba = [\"host all all\"]",
        "it must say: host DATABASE USER ADDRESS METHOD",
    ),
    (
        "[postgresql]",
        "[bootstrap]\ndatabase = \"app\"\n[postgresql]",
        "bootstrap.database needs bootstrap.role",
    ),
    (
        "[postgresql]",
        "[verify]\nevery = \"10s\"\n[postgresql]",
        "mainstay.toml:5: verify.every \"10s\" is not between \"1m\" and \"744h\": one run takes",
    ),
    ("[postgresql]", "[[vip]]\naddres = \"10.0.0.9\"\n[postgresql]", "did you mean \"address\"?"),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"10.0.0.9/24\"\n[postgresql]",
        "mainstay.toml:5: vip.address \"10.0.0.9/24\" has a prefix length; write \"10.0.0.9\"",
    ),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"db\"\n[postgresql]",
        "vip.address \"db\" is no IPv4 or IPv6 address",
    ),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"127.0.0.1\"\n[postgresql]",
        "is no address that clients on other machines",
    ),
    ("[postgresql]", "[[vip]]\naddress = \"10.0.0.2\"\n[postgresql]", "vip.address 10.0.0.2 is m2's own"),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"fd00::9\"\n[[vip]]\naddress = \"fd00:0::9\"\n[postgresql]",
        "mainstay.toml:7: vip.address fd00::9 stands twice",
    ),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"10.0.0.9\"\ninterface = \"eth0/1\"\n[postgresql]",
        "vip.interface \"eth0/1\" is no name of an interface",
    ),
    (
        "[postgresql]",
        "[[vip]]\naddress = \"10.0.0.9\"\nfollows = \"leader\"\n[postgresql]",
        "vip.follows \"leader\" is not known; there is \"primary\"",
    ),
    (
        "lease = \"3s\"",
        "lease = \"2s\"\n[[vip]]\naddress = \"10.0.0.9\"",
        "mainstay.toml:4: [[vip]] needs a lease of \"3s\" or longer",
    ),
];

#[test]
fn every_mistake_is_one_line_with_its_place_and_remedy() {
    let directory = Directory::new("bad");
    for (from, to, expected) in BAD {
        assert!(good().contains(from), "{from:?} is not in the good file");
        let error = directory.parse(&good().replacen(from, to, 1)).expect_err(expected);
        assert!(error.contains(expected), "{to:?}:\n  got      {error}\n  expected {expected}");
        assert_eq!(error.lines().count(), 1, "{error:?}");
        assert!(!error.contains("secret-of-the-test"));
    }
}

#[test]
fn a_password_that_others_can_read_is_refused() {
    let directory = Directory::new("mode");
    directory.write("replication.password", "x\n", 0o644);
    let error = directory.parse(&good()).expect_err("it is readable");
    assert!(error.contains("is readable by others; run: chmod 600"), "{error}");
}

#[test]
fn a_file_that_is_not_there_says_how_to_name_one() {
    let error = load(Path::new("/nonexistent/mainstay.toml")).expect_err("it is not there").to_string();
    assert!(error.contains("name the file with --config"), "{error}");
}

/// The good file with a table for the proxy, from line 17 on.
fn proxy(directory: &Directory, table: &str) -> Result<Option<mainstay_sql::Settings>, String> {
    let file = directory.0.join("mainstay.toml");
    let parsed = parse_with_proxy(&file, &format!("{}[sql_proxy]\n{table}", good()));
    parsed.map(|(_, settings)| settings).map_err(|error| error.to_string())
}

#[test]
fn a_sql_proxy_has_defaults_and_the_member_learns_of_it() {
    use std::time::Duration;
    let directory = Directory::new("proxy");
    assert_eq!(proxy(&directory, ""), Ok(Some(mainstay_sql::Settings::default())));
    let settings = proxy(
        &directory,
        "listen = \"[::1]:7000\"\nlisten_readonly = \"\"\npool_mode = \"session\"\nworkers = 3\nquery_timeout = \"2min\"\n",
    );
    let settings = settings.expect("it is good").expect("it is there");
    assert_eq!(settings.listen, "[::1]:7000".parse().unwrap());
    assert_eq!((settings.listen_readonly, settings.worker_threads()), (None, 3));
    assert_eq!(settings.pool_mode, mainstay_sql::PoolMode::Session);
    assert_eq!(settings.query_timeout, Duration::from_secs(120));
    let table = "max_user_connections = 7\nlog_min_duration = \"250ms\"\n[sql_proxy.databases.\"app@ro\"]\npool_size = 5\n\
                 [sql_proxy.users.batch]\npool_mode = \"session\"\n";
    let settings = proxy(&directory, table).expect("it is good").expect("it is there");
    assert_eq!((settings.max_user_connections, settings.databases["app@ro"].pool_size), (7, Some(5)));
    assert_eq!(settings.users["batch"].pool_mode, Some(mainstay_sql::PoolMode::Session));
    assert_eq!(settings.log_min_duration, Some(Duration::from_millis(250)));

    let none = directory.parse(&good()).expect("it is good");
    let wanted = directory.parse(&format!("{}[sql_proxy]\n", good())).expect("it is good");
    let other = directory.parse(&format!("{}[sql_proxy]\nworkers = 3\n", good())).expect("it is good");
    assert_eq!(none.sql_proxy, None);
    assert!(wanted.file.ends_with("mainstay.toml"));
    assert_ne!(wanted.sql_proxy, other.sql_proxy, "other settings are told apart");
}

#[test]
fn a_mistake_in_the_proxys_table_is_named_with_its_line() {
    let directory = Directory::new("bad-proxy");
    for (table, expected) in [
        ("listn = \"0.0.0.0:1\"", "unknown key \"listn\"; did you mean \"listen\"?"),
        ("listen = \"6432\"", "mainstay.toml:17: listen \"6432\" is not an IP address with a port"),
        ("listen = \"0.0.0.0:0\"", "listen \"0.0.0.0:0\" needs a port between 1 and 65535"),
        (
            "listen = \"0.0.0.0:5432\"",
            "mainstay.toml:17: listen \"0.0.0.0:5432\" is taken by this member's postgres",
        ),
        ("listen = \"10.0.0.1:6433\"", "listen_readonly is where listen is"),
        ("pool_mode = \"fast\"", "pool_mode \"fast\" is none of"),
        ("default_pool_size = 0", "default_pool_size 0 is not between 1 and 10000"),
        ("workers = -1", "workers -1 is not between 0 and 256"),
        ("query_timeout = \"5\"", "mainstay.toml:17: \"5\" is not a length of time"),
        ("max_db_connections = -1", "max_db_connections -1 is not between 0 and 1000000"),
        ("min_pool_size = 21", "mainstay.toml:17: min_pool_size is more than the pool may have"),
        (
            "[sql_proxy.databases.app]\npool_sise = 1",
            "unknown key \"pool_sise\"; did you mean \"pool_size\"?",
        ),
        (
            "[sql_proxy.databases.app]\npool_size = 0",
            "mainstay.toml:18: pool_size 0 is not between 1 and 10000",
        ),
        (
            "min_pool_size = 2\n[sql_proxy.databases.app]\npool_size = 1",
            "mainstay.toml:19: min_pool_size is more than the pool may have",
        ),
        ("[sql_proxy.users.app]\npool_mode = \"fast\"", "mainstay.toml:18: pool_mode \"fast\" is none of"),
        (
            "client_tls_ca_file = \"ca.crt\"",
            "mainstay.toml:17: client_tls_ca_file \"ca.crt\" is no absolute path",
        ),
        (
            "hba = [\"hostssl all all all scram-sha-256 clientcert=verify-ca\"]",
            "mainstay.toml:17: this rule asks clients for a certificate; name the CA of theirs",
        ),
        ("server_lifetime = \"1000h\"", "server_lifetime \"1000h\" is longer than 30 days"),
    ] {
        let error = proxy(&directory, table).expect_err(expected);
        assert!(error.contains(expected), "{table}:\n  got      {error}\n  expected {expected}");
        assert_eq!(error.lines().count(), 1, "{error:?}");
    }
}
