//! What a member tells a SQL proxy, and how it keeps one running.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::health::exchange;
use super::{Demo, mainstay, stderr, stdout, wait_until};

/// What a member answers on its control socket.
fn ask(demo: &Demo, member: &str, path: &str) -> (u16, Value) {
    let socket = demo.directory.join(member).join("control.sock");
    let stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let (code, body) = exchange(stream, &format!("GET {path}"), "");
    (code, serde_json::from_str(&body).expect("JSON"))
}

fn routes(demo: &Demo, member: &str, question: &str) -> Value {
    let (code, routes) = ask(demo, member, &format!("/v1/sql/routes{question}"));
    assert_eq!(code, 200, "{routes}");
    routes
}

fn run(demo: &Demo, arguments: &[&str]) {
    let output = demo.run(arguments);
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
}

fn signal(pid: u64, signal: &str) {
    assert!(pid > 1);
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill");
    assert!(sent.success());
}

fn kill_hard(pid: u64) {
    signal(pid, "-9");
}

/// A process that is stopped, and goes on at the end, also when the test fails.
struct Frozen(u64);

impl Frozen {
    fn new(pid: u64) -> Frozen {
        signal(pid, "-STOP");
        Frozen(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).output();
    }
}

#[test]
fn a_proxy_learns_where_writes_go_and_who_may_log_in() {
    let demo = Demo::started("routes", 1);
    let first = routes(&demo, "m1", "");
    let (primary, version) = (&first["primary"], first["version"].as_u64().expect("a number"));
    assert_eq!(
        (&primary["member"], &primary["port"]),
        (&"m1".into(), &(demo.port_base + 1).into()),
        "{first}"
    );
    assert!(primary["socket_dir"].as_str().is_some_and(|path| path.ends_with("m1/run")), "{first}");
    assert!(first["lease_ms"].as_u64().is_some_and(|lease| (1..=3_000).contains(&lease)), "{first}");
    assert_eq!((&first["reason"], &first["standbys"]), (&"".into(), &serde_json::json!([])), "{first}");
    // Nothing changes meanwhile, and the wait does not use up the lease.
    let waited = routes(&demo, "m1", &format!("?version={version}&wait_ms=300"));
    assert!(waited["version"] == first["version"] && waited["lease_ms"].as_u64() > Some(0), "{waited}");
    let longer = ask(&demo, "m1", &format!("/v1/sql/routes?version={version}&wait_ms=6000"));
    assert_eq!((longer.0, &longer.1["error"]["code"]), (400, &"bad_input".into()));

    the_roles_are_told_on_the_machine_alone(&demo);

    // PostgreSQL dies: there is no primary until it is back, under another epoch.
    let postmaster = demo.status()["members"][0]["postgres"]["pid"].as_u64().expect("a pid");
    kill_hard(postmaster);
    let down = follow(&demo, "m1", version, |routes| routes["primary"].is_null());
    assert!(down["lease_ms"] == 0 && down["reason"].as_str().is_some_and(|why| !why.is_empty()), "{down}");
    let up = follow(&demo, "m1", down["version"].as_u64().expect("a number"), |routes| {
        !routes["primary"].is_null()
    });
    assert!(up["epoch"].as_u64() > first["epoch"].as_u64(), "{up}");

    // The member is told to stop: it says so before PostgreSQL is gone.
    let version = up["version"].as_u64().expect("a number");
    std::thread::scope(|scope| {
        let told = scope.spawn(|| follow(&demo, "m1", version, |routes| routes["primary"].is_null()));
        run(&demo, &["stop", "m1"]);
        assert!(told.join().is_ok(), "the end was told");
    });
}

/// Asks as a proxy does, until the answer is as wanted.
fn follow(demo: &Demo, member: &str, mut version: u64, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2_000 {
        let routes = routes(demo, member, &format!("?version={version}&wait_ms=500"));
        if wanted(&routes) {
            return routes;
        }
        version = routes["version"].as_u64().expect("a number");
    }
    panic!("what was waited for has not come");
}

fn the_roles_are_told_on_the_machine_alone(demo: &Demo) {
    let (code, answer) = ask(demo, "m1", "/v1/sql/roles");
    assert_eq!(code, 200, "{answer}");
    let roles = answer["roles"].as_array().expect("a list");
    let app = roles.iter().find(|role| role["name"] == "app").expect("the application's role");
    assert!(app["verifier"].as_str().is_some_and(|text| text.starts_with("SCRAM-SHA-256$")));
    assert_eq!((&app["is_superuser"], &app["valid_until_unix_ms"]), (&false.into(), &Value::Null));
    let own = |role: &&Value| role["name"].as_str().is_some_and(|name| name.starts_with("mainstay"));
    assert_eq!(roles.iter().find(own), None, "Mainstay's own roles are nobody's business");
    for path in ["/v1/sql/roles", "/v1/sql/routes", "/v1/on/m1/v1/sql/roles"] {
        let plain = TcpStream::connect(("127.0.0.1", demo.port_base + 41)).expect("connected");
        assert_eq!(exchange(plain, &format!("GET {path}"), "").0, 403, "{path}");
    }
}

#[test]
fn a_standby_tells_of_the_primary_and_a_member_that_is_cut_off_of_none() {
    let demo = Demo::started("routes3", 3);
    let is_whole = |routes: &Value| {
        routes["primary"]["member"] == "m1" && routes["standbys"].as_array().is_some_and(|all| all.len() == 2)
    };
    wait_until("m3 knows everybody", || is_whole(&routes(&demo, "m3", "")));
    let seen = routes(&demo, "m3", "");
    assert!(seen["primary"]["socket_dir"].is_null(), "it is on another machine: {seen}");
    let own = seen["standbys"].as_array().expect("a list").iter().find(|route| route["member"] == "m3");
    assert!(own.is_some_and(|route| route["socket_dir"].is_string() && route["is_sync"] == true), "{seen}");
    // Between the primary's words its lease may seem to be over, for a moment, on a busy machine.
    wait_until("it may be relied upon", || {
        routes(&demo, "m3", "")["lease_ms"].as_u64().is_some_and(|lease| (1..3_000).contains(&lease))
    });
    let process = |member: usize, key: &str| {
        let row = demo.status()["members"][member].clone();
        let pid = if key == "pid" { row["pid"].as_u64() } else { row["postgres"]["pid"].as_u64() };
        pid.expect("a pid")
    };

    // PostgreSQL of m3 does not answer: another member says who may log in.
    let frozen = Frozen::new(process(2, "postgres"));
    let (code, answer) = ask(&demo, "m3", "/v1/sql/roles");
    assert!(code == 200 && answer.to_string().contains("SCRAM-SHA-256$"), "{code}");
    let (code, refused) = ask(&demo, "m1", "/v1/on/m3/v1/sql/roles");
    assert_eq!((code, &refused["error"]["code"]), (503, &"unavailable".into()), "it is carried once");
    drop(frozen);

    let epoch = seen["epoch"].as_u64();
    std::thread::scope(|scope| {
        let none = scope.spawn(|| follow(&demo, "m3", 0, |routes| routes["primary"].is_null()));
        run(&demo, &["switchover", "--to", "m2"]);
        let none = none.join().expect("the primary was none for a while");
        let version = none["version"].as_u64().expect("a number");
        let next = follow(&demo, "m3", version, |routes| routes["primary"]["member"] == "m2");
        assert!(next["epoch"].as_u64() > epoch, "{next}");
    });

    let frozen = [Frozen::new(process(0, "pid")), Frozen::new(process(1, "pid"))];
    let alone = follow(&demo, "m3", 0, |routes| routes["primary"].is_null());
    assert_eq!(alone["lease_ms"], 0, "{alone}");
    drop(frozen);
    wait_until("there is a primary again", || !routes(&demo, "m3", "")["primary"].is_null());
}

/// The proxy's process, by the status of its member.
fn proxy(demo: &Demo) -> Option<u64> {
    let output = demo.run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["members"][0]["sql_proxy"]["pid"].as_u64()
}

/// Whether the process is there and not a zombie.
fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Its file has another `default_pool_size` than it has begun with.
fn the_proxy_tells_of_itself_and_takes_orders(demo: &Demo) {
    let config = demo.configuration("m1").display().to_string();
    let json = |arguments: &[&str]| -> Value {
        let output = mainstay(&[arguments, &["--json", "--config", &config]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_str(&stdout(&output)).expect("JSON")
    };
    let reloaded = json(&["reload"]);
    assert!(
        reloaded["changed"].as_array().is_some_and(|all| all.contains(&"sql_proxy.default_pool_size".into()))
    );
    assert_eq!(reloaded["restart_member"], serde_json::json!([]), "{reloaded}");
    wait_until("it serves", || json(&["sql", "status"])["holds"] == false);
    assert_eq!(json(&["sql", "status"])["primary"], "m1");
    json(&["sql", "pause"]);
    assert_eq!(json(&["sql", "status"])["paused"], true);
    let shown = stdout(&mainstay(&["sql", "status", "--config", &config]));
    assert!(shown.starts_with("paused: new work waits"), "{shown}");
    let again = mainstay(&["sql", "pause", "--config", &config]);
    assert!(!again.status.success() && stderr(&again).contains("paused already"), "{}", stderr(&again));
    json(&["sql", "resume"]);
    json(&["sql", "reconnect", "app"]);
    let plain = TcpStream::connect(("127.0.0.1", demo.port_base + 41)).expect("connected");
    let (code, metrics) = exchange(plain, "GET /metrics", "");
    assert!(code == 200 && metrics.contains("\nmainstay_sql_holds 0\n"), "{metrics}");
}

#[test]
fn a_proxy_is_kept_running_outlives_its_member_and_ends_when_that_is_stopped() {
    let demo = Demo::started("proxy", 1);
    let file = demo.configuration("m1");
    let text = std::fs::read_to_string(&file).expect("written");
    // The demo's own table stands last.
    let (text, _) = text.split_once("\n[sql_proxy]").expect("a demo has proxies");
    std::fs::write(&file, text).expect("written");
    run(&demo, &["stop", "m1"]);
    run(&demo, &["start", "m1"]);
    wait_until("the member runs without a proxy", || {
        let output = demo.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["writable"] == true && status["members"][0]["sql_proxy"].is_null()
    });
    assert!(demo.status()["endpoints"].get("sql_rw").is_none());
    let with = |table: &str| std::fs::write(&file, format!("{text}\n[sql_proxy]\n{table}")).expect("written");
    let port = demo.port_base + 51;
    with(&format!("listen = \"127.0.0.1:{port}\"\nlisten_readonly = \"\"\n"));
    run(&demo, &["stop", "m1"]);
    run(&demo, &["start", "m1"]);
    wait_until("the proxy runs", || proxy(&demo).is_some());
    let first = proxy(&demo).expect("a pid");
    wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let shown = stdout(&demo.run(&["status"]));
    assert!(shown.contains(&format!("SQL proxy: m1 127.0.0.1:{port} (pid {first})")), "{shown}");
    let endpoints = &demo.status()["endpoints"];
    assert!(endpoints["sql_rw"].as_str().is_some_and(|url| url.contains(&format!("@127.0.0.1:{port}/app"))));
    assert!(endpoints.get("sql_ro").is_none(), "it takes no clients of standbys");
    let hba = demo.directory.join("m1/postgresql/pg_hba.conf");
    wait_until("PostgreSQL lets it in by its socket", || {
        std::fs::read_to_string(&hba).is_ok_and(|text| text.ends_with("\nlocal all all scram-sha-256\n"))
    });

    kill_hard(first);
    wait_until("another one runs", || proxy(&demo).is_some_and(|pid| pid != first));
    let second = proxy(&demo).expect("a pid");
    assert!(!lives(first) && lives(second));

    // The member dies alone: the next one finds the proxy.
    let member = demo.status()["members"][0]["pid"].as_u64().expect("a pid");
    kill_hard(member);
    wait_until("the member is gone", || !lives(member));
    run(&demo, &["start", "m1"]);
    wait_until("the proxy is found", || proxy(&demo).is_some());
    assert_eq!(proxy(&demo), Some(second), "it went on, and there is one");

    let settings = format!("listen = \"127.0.0.1:{port}\"\nlisten_readonly = \"\"\ndefault_pool_size = 7\n");
    with(&settings);
    the_proxy_tells_of_itself_and_takes_orders(&demo);
    assert_eq!(proxy(&demo), Some(second), "it is the same one");

    // Other settings: a member that starts anew starts the proxy anew.
    with(&format!("listen = \"127.0.0.1:{port}\"\nlisten_readonly = \"\"\nworkers = 1\n"));
    let member = demo.status()["members"][0]["pid"].as_u64().expect("a pid");
    kill_hard(member);
    wait_until("the member is gone", || !lives(member));
    run(&demo, &["start", "m1"]);
    wait_until("the proxy has other settings", || proxy(&demo).is_some_and(|pid| pid != second));
    assert!(!lives(second));

    let last = proxy(&demo).expect("a pid");
    run(&demo, &["stop", "m1"]);
    assert!(!lives(last), "it ends with its member");
}
