//! `support` on a real cluster, with a member down: everything that helps is in it, and no secret.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{Demo, mainstay, stderr, stdout, wait_until};

/// Passwords and the lines of private keys below `directory`.
fn secrets(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "data" {
                found.extend(secrets(&path));
            }
        } else if [".key", ".password", "passfile", ".pgpass"].iter().any(|end| name.ends_with(end)) {
            let text = std::fs::read_to_string(&path).expect("a text");
            let words = text.lines().filter(|line| !line.starts_with("-----"));
            found.extend(words.filter_map(|line| line.rsplit(':').next()).map(str::to_owned));
        }
    }
    found
}

#[test]
fn a_bundle_has_what_helps_and_no_secret() {
    let demo = Demo::started("support", 2);
    // Mistakes of people, which PostgreSQL writes into its log as they were typed.
    let _ = demo.run(&["psql", "--", "-c", "ALTER ROLE nobody_of_the_test PASSWORD 'hunter_of_the_test'"]);
    let config = demo.configuration("m1").display().to_string();
    wait_until("PostgreSQL has logged it", || {
        stdout(&mainstay(&["logs", "--config", &config, "--since", "1h"])).contains("hunter_of_the_test")
    });
    assert!(demo.run(&["stop", "m2"]).status.success());
    let bundle = demo.directory.join("bundle.tar.gz").display().to_string();
    let made = mainstay(&["support", "--config", &config, "--output", &bundle, "--json"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let told: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert!(told["missing"].to_string().contains("logs of m2"), "{told}");
    let again = mainstay(&["support", "--config", &config, "--output", &bundle]);
    assert!(stderr(&again).contains("exists already; name another file"), "{}", stderr(&again));

    let unpacked = Command::new("tar").args(["-xzOf", &bundle]).output().expect("tar runs");
    assert!(unpacked.status.success(), "{}", stderr(&unpacked));
    let text = stdout(&unpacked);
    let listed = Command::new("tar").args(["-tzf", &bundle]).output().expect("tar runs");
    for name in [
        "README.txt",
        "status.json",
        "configuration.json",
        "decisions.json",
        "logs.txt",
        "mainstay.toml",
        "pg_controldata.txt",
        "system.txt",
        "verify.json",
    ] {
        assert!(stdout(&listed).contains(&format!("-m1/{name}\n")), "{name}: {}", stdout(&listed));
    }
    for part in ["Database system identifier", "nobody_of_the_test", "MemTotal", "\"check\": \"write\""] {
        assert!(text.contains(part), "{part}");
    }
    let secrets = secrets(&demo.directory);
    assert!(secrets.len() >= 10, "{}", secrets.len());
    for secret in secrets.iter().chain([&"hunter_of_the_test".to_owned()]) {
        assert!(!text.contains(secret.as_str()), "a secret is in the bundle: {secret}");
    }
}
