//! A SQL proxy on a machine that is no member: it joins by a word, and goes on when the member that it asked is gone.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use super::{Demo, mainstay, stderr, stdout, wait_until};

struct Alone<'a> {
    demo: &'a Demo,
    directory: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Alone<'_> {
    fn join(&self, word: &str) -> Output {
        let directory = self.directory.display().to_string();
        mainstay(&["sql-proxy", "--join", word, "--no-start", "--directory", &directory])
    }

    fn settings(&self, more: &str) {
        let text =
            format!("[sql_proxy]\nlisten = \"127.0.0.1:{}\"\nlisten_readonly = \"\"\n{more}", self.port);
        std::fs::write(self.directory.join("sql-proxy.toml"), text).expect("written");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(["sql-proxy", "--alone", "--directory"]).arg(&self.directory).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.directory.join("log")).expect("made");
        let started = self.command().stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(started.expect("it starts"));
        let port = self.port;
        wait_until("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.id().to_string();
            let told = Command::new("kill").args(["-TERM", &pid]).status();
            assert!(told.is_ok_and(|status| status.success()));
            process.wait().expect("it ends");
        }
    }

    fn psql(&self, sql: &str) -> Output {
        let password = std::fs::read_to_string(self.demo.directory.join("m1/app.password")).expect("written");
        let mut command = Command::new("psql");
        command.args([
            "-XqAt",
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "app",
            "app",
            "-c",
            sql,
        ]);
        command.env("PGPASSWORD", password.trim()).output().expect("psql runs")
    }

    fn one(&self, sql: &str) -> String {
        let output = self.psql(sql);
        assert!(output.status.success(), "{}{}", stderr(&output), self.log());
        stdout(&output).trim().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn client(demo: &Demo, words: &[&str]) -> Output {
    let configuration = demo.configuration("m1").display().to_string();
    mainstay(&[&["client"], words, &["--config", &configuration]].concat())
}

#[test]
fn a_proxy_alone_follows_the_cluster_from_member_to_member() {
    let demo = Demo::started("alone", 3);
    let file = demo.directory.join("app1.join");
    let added = client(&demo, &["add", "app1", "--sql-proxy", "--out", &file.display().to_string()]);
    assert!(added.status.success(), "{}", stderr(&added));
    let word = std::fs::read_to_string(&file).expect("written").trim().to_owned();
    assert!(word.ends_with(&format!("@127.0.0.1:{}", demo.port_base + 41)), "where to ask stands in it");
    let listed = stdout(&client(&demo, &["list"]));
    assert!(listed.contains("sql-proxy/app1"), "{listed}");

    let directory = demo.directory.join("proxy");
    let mut alone = Alone { demo: &demo, directory, port: demo.port_base + 91, process: None };
    let refused = alone.command().output().expect("it runs");
    let said = stderr(&refused);
    assert!(
        said.contains("knows no cluster; join one: mainstay sql-proxy --join") && said.lines().count() == 1,
        "{said}"
    );
    the_wrong_words_are_refused(&alone, &word);
    let joined = alone.join(&word);
    assert!(joined.status.success(), "{}", stderr(&joined));
    let token = alone.directory.join("token");
    assert_eq!(std::fs::metadata(&token).expect("kept").permissions().mode() & 0o777, 0o600);
    alone.settings("");
    alone.start();
    wait_until("it serves", || alone.psql("SELECT 1").status.success());
    assert!(
        !std::fs::read_to_string(format!("/proc/{}/cmdline", alone.process.as_ref().expect("it runs").id()))
            .expect("read")
            .contains(&word)
    );
    alone.one("CREATE TABLE followed (n int)");
    assert_eq!(alone.one("INSERT INTO followed VALUES (1) RETURNING n"), "1");
    // Its statements go over TLS, though it is on the same machine as all of them.
    assert_eq!(alone.one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");

    // The token is good for that and nothing else.
    let bearer = word.split('@').next().expect("a token");
    for (path, code) in
        [("/v1/sql/routes", 200), ("/v1/sql/roles", 200), ("/v1/config", 403), ("/v1/clients", 403)]
    {
        assert_eq!(super::api::code_with_token(&demo, bearer, path), code, "{path}");
    }

    // Settings are read again while it serves.
    let reload = |alone: &Alone| {
        let pid = alone.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().is_ok_and(|status| status.success()));
    };
    alone.settings("query_timeout = \"1ms\"\n");
    reload(&alone);
    wait_until("the other settings count", || !alone.psql("SELECT pg_sleep(0.5)").status.success());
    alone.settings("");
    reload(&alone);
    wait_until("the first settings count", || alone.psql("SELECT pg_sleep(0.5)").status.success());

    // The primary, which is also the member that it asks, is gone with its machine's processes.
    let killed = demo.run(&["kill", "m1"]);
    assert!(killed.status.success(), "{}{}", stdout(&killed), stderr(&killed));
    wait_until("it follows", || alone.psql("INSERT INTO followed VALUES (2)").status.success());
    assert_eq!(alone.one("SELECT count(*) FROM followed WHERE n = 1"), "1");

    // After its own restart it asks those of whom it has learnt.
    alone.stop();
    alone.start();
    wait_until("it serves again", || alone.psql("INSERT INTO followed VALUES (3)").status.success());
}

fn the_wrong_words_are_refused(alone: &Alone, word: &str) {
    let (token, place) = word.split_once('@').expect("a word");
    let mut other: Vec<char> = token.chars().collect();
    other[20] = if other[20] == '0' { '1' } else { '0' };
    let mistyped = format!("{}@{place}", other.iter().collect::<String>());
    let closed = format!("{token}@127.0.0.1:1");
    for (word, why) in [
        (mistyped.as_str(), "mistyped"),
        (token, "give TOKEN@HOST or TOKEN@HOST:PORT"),
        (closed.as_str(), "does not say who its cluster is"),
    ] {
        let refused = alone.join(word);
        let said = stderr(&refused);
        assert!(!refused.status.success() && said.contains(why) && said.lines().count() == 1, "{said}");
        assert!(!said.contains(token), "a secret was said");
        assert!(!alone.directory.join("token").exists(), "nothing is kept of it");
    }
}
