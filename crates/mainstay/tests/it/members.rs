//! Members as an operator adds, replaces and removes them.

use std::path::Path;
use std::process::Output;

use super::machines::{Machines, succeeded, text};
use super::{mainstay, stderr, stdout, wait_until};

#[test]
fn a_cluster_grows_from_one_member_is_repaired_and_shrinks() {
    let mut machines = Machines::new("members");
    let (home, address) = (machines.home("m1"), machines.address(1));
    let words = format!("init --yes --json --no-tune --cluster grows --directory {home} --address {address}");
    let init: Vec<&str> = words.split_whitespace().collect();
    let made = machines.json("m1", &init);
    let again = machines.on("m1", &init);
    assert!(!again.status.success() && stderr(&again).contains("exists already"), "{}", stderr(&again));
    machines.run("m1");
    wait_until("the first member is the primary", || {
        machines.members("m1").first().is_some_and(|row| row["role"] == "primary")
    });
    let postmaster = machines.members("m1")[0]["postgres"]["pid"].clone();
    wait_until("its tokens stand in the record", || {
        machines.json("m1", &["member", "list", "--json"])["invitations"]
            .as_array()
            .is_some_and(|open| open.len() == 2)
    });

    let tokens: Vec<String> = made["tokens"].as_array().expect("tokens").iter().map(text).collect();
    let mistyped = tokens[0].replacen(&tokens[0][3..4], if &tokens[0][3..4] == "z" { "y" } else { "z" }, 1);
    assert!(!machines.join("m2", 2, &mistyped, &[]).status.success());
    succeeded(&machines.join("m2", 2, &tokens[0], &[]));
    machines.run("m2");
    // Two machines come with one token, at the same time.
    let outcomes: Vec<Output> = std::thread::scope(|scope| {
        let machines = &machines;
        let asked = [("m3", 3), ("x3", 4)].map(|(name, number)| {
            let token = &tokens[1];
            scope.spawn(move || machines.join(name, number, token, &[]))
        });
        asked.into_iter().map(|asked| asked.join().expect("no panic")).collect()
    });
    let winners: Vec<usize> = (0..2).filter(|index| outcomes[*index].status.success()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let third = ["m3", "x3"][winners[0]];
    machines.run(third);
    wait_until("three members vote and stream", || machines.are_whole("m1", &["m1", "m2", "m3"]));
    assert_eq!(machines.members("m1")[0]["postgres"]["pid"], postmaster, "PostgreSQL was not restarted");

    machines.kill("m2");
    let replaced = machines.json("m1", &["member", "replace", "m2", "--json"]);
    succeeded(&machines.join("m4", 5, &text(&replaced["join"]), &[]));
    machines.run("m4");
    wait_until("the new member has taken the dead one's place", || {
        machines.are_whole("m1", &["m1", "m3", "m4"])
    });

    let invited = machines.json("m1", &["member", "invite", "--witness", "--json"]);
    succeeded(&machines.join("w1", 6, &text(&invited["join"]), &["--witness", "--member", "w1"]));
    machines.run("w1");
    wait_until("the witness votes", || machines.are_whole("m1", &["m1", "m3", "m4", "w1"]));

    let refused = machines.on("m1", &["member", "remove", "m1", "--yes"]);
    assert!(stderr(&refused).contains("switch over to another member first"), "{}", stderr(&refused));
    succeeded(&machines.on("m1", &["member", "remove", "m4", "--yes"]));
    wait_until("the removed member has ended by itself", || {
        let (_, child) = machines.running.iter_mut().find(|(name, _)| name == "m4").expect("it ran");
        child.try_wait().expect("its own child").is_some()
    });
    wait_until("its slot is gone", || {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'ms_m4'";
        let config = machines.config("m1");
        let output = mainstay(&["psql", "--config", &config, "--", "-XAtc", slots]);
        stdout(&output).trim() == "0"
    });
    succeeded(&machines.on("m4", &["uninstall", "--yes", "--remove-data", "--yes-remove-data"]));
    assert!(
        !Path::new(&machines.config("m4")).exists() && !Path::new(&machines.home("m4")).join("data").exists()
    );
    assert!(machines.are_whole("m1", &["m1", "m3", "w1"]));
}
