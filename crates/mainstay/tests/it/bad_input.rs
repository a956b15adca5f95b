//! Whatever is wrong: one line with the remedy, a failing exit code, nothing changed.

use std::os::unix::fs::PermissionsExt;

use super::{Demo, mainstay, stderr, stdout};

/// Asserts that the command fails with one line that says `expected`.
fn refused(output: &std::process::Output, expected: &str) {
    let said = stderr(output);
    assert!(!output.status.success(), "it was carried out: {}", stdout(output));
    assert!(said.contains(expected), "\n  said     {said}\n  expected {expected}");
    assert_eq!(said.trim_end().lines().count(), 1, "more than one line:\n{said}");
}

#[test]
fn commands_without_a_member_say_what_is_missing() {
    refused(&mainstay(&["status", "--config", "/nonexistent.toml"]), "/nonexistent.toml: cannot be read");
    refused(&mainstay(&["run", "--config", "/nonexistent.toml"]), "name the file with --config");
    refused(&mainstay(&["decide", "--view", "/nonexistent.json"]), "cannot read /nonexistent.json");
    refused(&mainstay(&["demo", "--dir", "/nonexistent", "status"]), "no demo lives in /nonexistent");
}

#[test]
fn wrong_arguments_are_explained() {
    let output = mainstay(&["demo", "--members", "4"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a demo has 1, 2, 3 or 5 members"), "{}", stderr(&output));
    let output = mainstay(&["swichover"]);
    assert!(stderr(&output).contains("switchover"), "{}", stderr(&output));
    let output = mainstay(&["switchover", "--to", "M-1"]);
    assert!(stderr(&output).contains("is not a member name"), "{}", stderr(&output));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let demo = Demo::place("port");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", demo.port_base + 1)).expect("a free port");
    refused(&demo.start(1), &format!("port {} on 127.0.0.1 cannot be used", demo.port_base + 1));
    assert!(!demo.directory.exists(), "nothing is left");
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let demo = Demo::place("full");
    std::fs::create_dir_all(&demo.directory).expect("made");
    std::fs::write(demo.directory.join("precious"), "data").expect("written");
    refused(&demo.start(1), "is not empty; choose another --dir");
    assert!(demo.directory.join("precious").exists());
    std::fs::remove_dir_all(&demo.directory).expect("removed");
}

#[test]
fn a_running_demo_refuses_what_it_cannot_do() {
    let demo = Demo::started("refuses", 1);
    refused(&demo.start(1), "cannot be used");
    let other_ports = demo.run(&["--detach", "--port-base", "29000", "--members", "1"]);
    refused(&other_ports, "a demo lives in");
    refused(&demo.run(&["kill", "m9"]), "there is no member m9 in this demo; there are m1");
    refused(&demo.run(&["start", "m1"]), "m1 runs already");
    refused(&demo.run(&["switchover"]), "there is no other member with data");
    refused(&demo.run(&["switchover", "--to", "m1"]), "m1 is the primary already");
    second_process_of_the_same_member(&demo);
    assert_eq!(demo.status()["writable"], true, "and it goes on");
}

fn second_process_of_the_same_member(demo: &Demo) {
    let configuration = demo.configuration("m1").display().to_string();
    refused(&mainstay(&["run", "--config", &configuration]), "127.0.0.1");
    refused(&mainstay(&["create", "--config", &configuration]), "is in use by another process");
}

#[test]
fn a_member_checks_its_files_before_it_touches_anything() {
    let demo = Demo::started("files", 1);
    assert!(demo.run(&["stop", "m1"]).status.success());
    let file = demo.configuration("m1");
    let good = std::fs::read_to_string(&file).expect("its configuration");
    let run = |text: &str| {
        std::fs::write(&file, text).expect("written");
        mainstay(&["run", "--config", &file.display().to_string()])
    };
    refused(&run(&good.replace("[bootstrap]", "leese = \"3s\"\n[bootstrap]")), "did you mean \"lease\"?");
    refused(
        &run(&format!("{good}\n[postgresql]\nbin_dir = \"/nonexistent\"\n")),
        "PostgreSQL is not installed",
    );
    refused(&run(&format!("{good}\n[postgresql]\nuser = \"nobody-here\"\n")), "does not exist");
    let other_key = good.replace("key = \"sha256:", "key = \"sha256:00").replacen("00", "", 0);
    let digits = other_key.find("sha256:00").expect("the key") + "sha256:".len();
    let other_key = format!("{}{}", &other_key[..digits + 64], &other_key[digits + 66..]);
    refused(&run(&other_key), "use the right key, or correct the configuration of every member");
    refused(&run(&good.replace("cluster = \"demo", "cluster = \"other")), "belongs to cluster `demo-");
    std::fs::rename(demo.directory.join("m1/consensus"), demo.directory.join("m1/consensus.aside"))
        .expect("renamed");
    refused(&run(&good), "is missing: run `mainstay create` once for a new cluster");
    std::fs::rename(demo.directory.join("m1/consensus.aside"), demo.directory.join("m1/consensus"))
        .expect("renamed");
    let data = demo.directory.join("m1/data");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).expect("changed");
    refused(&run(&good), "m1/data");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("changed back");
    std::fs::write(&file, good).expect("written");
    assert!(demo.run(&["start", "m1"]).status.success());
    super::wait_until("it is up again, nothing lost", || {
        let output = demo.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["writable"] == true
    });
}

#[test]
fn a_data_directory_that_is_not_ours_is_never_touched() {
    let demo = Demo::started("foreign", 1);
    assert!(demo.run(&["stop", "m1"]).status.success());
    let data = demo.directory.join("m1/data");
    std::fs::rename(&data, demo.directory.join("m1/data.aside")).expect("moved");
    std::fs::create_dir(&data).expect("made");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("changed");
    let postgres = std::process::Command::new("chown").arg("postgres").arg(&data).status().expect("chown");
    assert!(postgres.success());
    std::fs::write(data.join("PG_VERSION"), "9\n").expect("another major version");
    let configuration = demo.configuration("m1").display().to_string();
    refused(&mainstay(&["run", "--config", &configuration]), "PostgreSQL 9, which the data directory needs");
    assert_eq!(std::fs::read_to_string(data.join("PG_VERSION")).expect("still there"), "9\n");
    another_cluster_s_directory(&demo);
}

/// Of the right version, but made by somebody else: the member runs, says so, and leaves it alone.
fn another_cluster_s_directory(demo: &Demo) {
    let data = demo.directory.join("m1/data");
    std::fs::remove_dir_all(&data).expect("removed");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&demo.directory.join("m1/data.aside"), &data])
        .status();
    assert!(copied.expect("cp").success());
    let identity = r#"{"incarnation":"0000002a","system_identifier":7}"#;
    std::fs::write(data.join("mainstay.incarnation"), identity).expect("another identity");
    assert!(demo.run(&["start", "m1"]).status.success());
    super::wait_until("it says why it leaves the directory alone", || {
        let output = demo.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["reason"].as_str().is_some_and(|reason| reason.contains("replaced by hand"))
    });
    assert_eq!(std::fs::read_to_string(data.join("mainstay.incarnation")).expect("there"), identity);
}
