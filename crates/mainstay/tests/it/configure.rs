//! PostgreSQL's configuration by the commands that the book shows, on a real server.

use std::process::Output;

use super::{Demo, mainstay, stderr, stdout, wait_until};

struct One {
    demo: Demo,
    file: String,
}

impl One {
    fn start() -> One {
        let demo = Demo::started("configure", 1);
        let file = demo.directory.join("m1/mainstay.toml").display().to_string();
        One { demo, file }
    }

    fn run(&self, words: &str) -> Output {
        let arguments: Vec<&str> = words.split_whitespace().chain(["--config", &self.file]).collect();
        mainstay(&arguments)
    }

    #[track_caller]
    fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    #[track_caller]
    fn refused(&self, words: &str, with: &str) {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words}: {}", stdout(&output));
        let said = stderr(&output);
        assert!(said.contains(with) && said.trim().lines().count() == 1, "{words}: {said}");
    }

    fn shows(&self, name: &str) -> String {
        let show = format!("SHOW {name}");
        stdout(&self.demo.run(&["psql", "--", "-Atc", &show])).trim().to_owned()
    }
}

#[test]
fn parameters_are_changed_for_the_whole_cluster_and_back() {
    let one = One::start();
    what_cannot_be_is_refused(&one);
    one.ok("config set work_mem=7MB --yes");
    wait_until("a reload is enough", || one.shows("work_mem") == "7MB");
    lowered_in_place(&one);

    let history: serde_json::Value = serde_json::from_str(&one.ok("config history --json")).expect("JSON");
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    assert!(history[0]["by"].as_str().is_some_and(|by| by.ends_with(" at m1")), "{history}");
    let shown = one.ok("config show --effective");
    assert!(shown.contains("= 60 (shared)") && shown.contains("= on (fixed)"), "{shown}");
    one.ok("config rollback 0 --yes");
    wait_until("the default holds again", || one.shows("work_mem") == "4MB");
    assert_eq!(one.shows("max_connections"), "60", "not without a restart");
    own_file(&one);
}

fn what_cannot_be_is_refused(one: &One) {
    one.refused(
        "config set work_men=7MB --yes",
        "there is no parameter `work_men`; did you mean `work_mem`?",
    );
    one.refused(
        "config set work_mem=7XB --yes",
        "invalid value for parameter \"work_mem\": \"7XB\" (Valid units",
    );
    one.refused("config set fsync=off --yes", "`fsync` cannot be set: acknowledged commits");
    one.refused("config set shared_preload_libraries=nothing_such --yes", "there is no library nothing_such");
    one.refused("config set --member m9 work_mem=7MB --yes", "there is no member m9");
    one.refused(
        "config set --role standby max_connections=7 --yes",
        "a member changes its role without a restart",
    );
    one.refused("config set work_mem=7MB", "say --yes");
    one.refused("config unset work_mem --yes", "is not set there");
    one.refused("config rollback 9 --yes", "there is no change 9");
    let shown: serde_json::Value = serde_json::from_str(&one.ok("config show --json")).expect("JSON");
    assert_eq!(shown["serial"], 0, "nothing was changed: {shown}");
}

/// Alone, so the primary takes over from itself with less than its directory says.
fn lowered_in_place(one: &One) {
    let said = one.ok("config set max_connections=60 --yes");
    assert!(said.contains("lowered from 100 to 60") && said.contains("mainstay restart --pending"), "{said}");
    wait_until("it is shown as pending", || {
        let pending = &one.demo.status()["members"][0]["pending_restart"][0];
        pending["name"] == "max_connections" && pending["wanted"] == "60"
    });
    assert_eq!(one.shows("max_connections"), "100");
    let epoch = one.demo.status()["epoch"].as_u64().expect("a number");
    let restarted: serde_json::Value =
        serde_json::from_str(&one.ok("restart --pending --json")).expect("JSON");
    assert_eq!(restarted["restarted"], serde_json::json!(["m1"]), "{restarted}");
    wait_until("it serves again", || one.shows("max_connections") == "60");
    let status = one.demo.status();
    assert_eq!((&status["primary"], status["epoch"].as_u64()), (&"m1".into(), Some(epoch + 1)));
    wait_until("nothing is pending", || {
        one.demo.status()["members"][0]["pending_restart"].as_array().is_some_and(Vec::is_empty)
    });
}

/// A broken file changes nothing, a good one what can be changed at once.
fn own_file(one: &One) {
    let before = std::fs::read_to_string(&one.file).expect("the demo's file");
    let with = |more: &str| std::fs::write(&one.file, format!("{more}\n{before}")).expect("written");
    with("leese = 3");
    one.refused("reload", "mainstay.toml:1: unknown key \"leese\"");
    let added = before.replacen("[postgresql.parameters]", "[postgresql.parameters]\nwork_mem = \"9MB\"", 1);
    let added = if added == before {
        format!("{before}\n[postgresql.parameters]\nwork_mem = \"9MB\"\n")
    } else {
        added
    };
    std::fs::write(&one.file, added.replace("\"9MB\"", "\"9XB\"")).expect("written");
    one.refused("reload", "invalid value for parameter \"work_mem\": \"9XB\"");
    std::fs::write(&one.file, &added).expect("written");
    let said = one.ok("reload");
    assert!(said.contains("changed: postgresql.parameters.work_mem"), "{said}");
    wait_until("the file's value is used", || one.shows("work_mem") == "9MB");
    // The file wins, and the change says so.
    let said = one.ok("config set work_mem=5MB --yes");
    assert!(said.contains("also stands in the file of m1, which wins there"), "{said}");
    // SIGHUP does the same.
    std::fs::write(&one.file, &before).expect("written");
    let pid = one.demo.status()["members"][0]["pid"].to_string();
    let sent = std::process::Command::new("kill").args(["-HUP", &pid]).status().expect("kill");
    assert!(sent.success());
    wait_until("the cluster's value is used", || one.shows("work_mem") == "5MB");
    let checked = mainstay(&["config", "check", &one.file]);
    assert!(stdout(&checked).contains(": ok"), "{}", stderr(&checked));
}
