//! What `init` and `join` write down, as PostgreSQL runs with it.

use serde_json::Value;

use super::machines::{Machines, succeeded, text};
use super::{mainstay, stdout, wait_until};

fn shows(machines: &Machines, member: &str, parameter: &str) -> String {
    let socket = format!("{}/run", machines.home(member));
    let arguments =
        ["-h", &socket, "-U", "mainstay", "-d", "postgres", "-XAtc", &format!("SHOW {parameter}")];
    let output = std::process::Command::new("psql").args(arguments).output().expect("psql runs");
    stdout(&output).trim().to_owned()
}

fn tuned(answer: &Value, name: &str) -> String {
    let rows = answer["parameters"].as_array().expect("values");
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {answer}"));
    assert!(!text(&row["reason"]).is_empty());
    text(&row["value"])
}

#[test]
fn postgresql_runs_with_values_that_fit_each_machine() {
    let mut machines = Machines::new("init");
    let (home, address) = (machines.home("m1"), machines.address(1));
    let init = ["init", "--yes", "--json", "--cluster", "sized", "--directory", &home, "--address", &address];
    let made = machines.json("m1", &init);
    let (shared_buffers, work_mem) = (tuned(&made, "shared_buffers"), tuned(&made, "work_mem"));
    let written = std::fs::read_to_string(machines.config("m1")).expect("written");
    let line = format!("shared_buffers = \"{shared_buffers}\"  # a quarter of ");
    assert!(written.contains("[postgresql.defaults]\n") && written.contains(&line), "{written}");
    // A standby could not start with less than its primary has, so this is no matter of one machine.
    assert!(!written.contains("max_worker_processes"), "{written}");

    machines.run("m1");
    wait_until("the first member runs with them from its first start", || {
        shows(&machines, "m1", "shared_buffers") == shared_buffers
    });
    assert_eq!(shows(&machines, "m1", "work_mem"), work_mem);
    wait_until("nothing waits for a restart", || {
        machines.members("m1").first().is_some_and(|row| {
            row["role"] == "primary" && row["pending_restart"].as_array().is_some_and(Vec::is_empty)
        })
    });
    wait_until("a token stands in the record", || {
        machines.json("m1", &["member", "list", "--json"])["invitations"]
            .as_array()
            .is_some_and(|open| open.len() == 2)
    });
    // The second machine is left alone, as if it were too small for what the first one has.
    let joined = machines.join("m2", 2, &text(&made["tokens"][0]), &["--no-tune"]);
    succeeded(&joined);
    let joined: Value = serde_json::from_slice(&joined.stdout).expect("JSON");
    assert!(joined["parameters"].is_null(), "{joined}");
    machines.run("m2");
    wait_until("the second member streams with Mainstay's defaults", || {
        machines.members("m1").iter().any(|row| row["name"] == "m2" && row["role"] == "standby")
    });
    assert_eq!(shows(&machines, "m2", "shared_buffers"), "128MB");

    succeeded(&machines.on("m1", &["config", "set", "work_mem=9MB", "--yes"]));
    wait_until("the cluster's configuration goes over it", || {
        ["m1", "m2"].iter().all(|member| shows(&machines, member, "work_mem") == "9MB")
    });
    let shown = machines.on("m1", &["config", "show", "--effective"]);
    succeeded(&shown);
    assert!(stdout(&shown).contains("(file_defaults)") && stdout(&shown).contains("= 9MB (shared)"));
    let wrong = written.replace("[postgresql.defaults]\n", "[postgresql.defaults]\nfsync = \"off\"\n");
    std::fs::write(machines.config("m1"), wrong).expect("written");
    let refused = mainstay(&["config", "check", &machines.config("m1")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`fsync` cannot be set"), "{refused:?}");
    std::fs::write(machines.config("m1"), written.replace(&work_mem, "11MB")).expect("written");
    let reloaded = machines.on("m1", &["reload"]);
    assert!(stdout(&reloaded).contains("postgresql.defaults.work_mem"), "{reloaded:?}");
    succeeded(&machines.on("m1", &["config", "unset", "work_mem", "--yes"]));
    wait_until("the file's default holds again", || shows(&machines, "m1", "work_mem") == "11MB");
}
