//! Every command there is, in every situation in which it cannot be carried out: one line that names the remedy, the documented exit
//! code, within seconds, and nothing changed. A command without a row fails.
//!
//! m1 is the primary of a healthy cluster, then m3 is dead, then m2 is frozen too, and m1 has no majority.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::reference::help;
use super::{Demo, mainstay, stderr, stdout, wait_until};

/// A command that waits for the record gives up after five seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// What becomes of a command line.
enum Outcome {
    /// It only looks, or what it is for is just this.
    Works,
    /// Exit code 1, or 2 for what the command line alone shows, and one line that says this.
    Refused(&'static str),
}
use Outcome::{Refused, Works};

/// One command, and what to type in each situation. `CONFIG` is put behind, where the command takes it.
struct Row {
    command: &'static str,
    /// With a member that there is not, or that is the wrong one.
    wrong_member: &'static [(&'static str, &'static str)],
    /// About m3, which is dead, typed on m1.
    dead_target: &'static [(&'static str, Outcome)],
    /// Typed on m3, whose member does not run.
    on_the_dead: &'static [(&'static str, Outcome)],
    /// Typed on m1, which has no majority.
    without_majority: &'static [(&'static str, Outcome)],
}

const NOTHING: Row =
    Row { command: "", wrong_member: &[], dead_target: &[], on_the_dead: &[], without_majority: &[] };

const NOT_RUNNING: Outcome = Refused("is it running? start it with: mainstay run");
const NO_MAJORITY: Outcome = Refused("start the voters that are missing");
const NO_DEMO: &str = "no demo lives in";

const ROWS: &[Row] = &[
    Row {
        command: "status",
        on_the_dead: &[("status", Works)],
        without_majority: &[("status", Works), ("status --json", Works)],
        ..NOTHING
    },
    Row {
        command: "explain",
        on_the_dead: &[("explain", NOT_RUNNING)],
        without_majority: &[("explain", Works)],
        ..NOTHING
    },
    Row {
        command: "switchover",
        wrong_member: &[
            ("switchover --to m9", "there is no member m9; there are m1, m2, m3"),
            ("switchover --to m1", "m1 is the primary already"),
            ("switchover --at 1h --to m9", "there is no member m9; there are m1, m2, m3"),
            ("switchover --cancel", "no switchover is scheduled"),
        ],
        dead_target: &[("switchover --to m3", Refused("m3"))],
        on_the_dead: &[("switchover", NOT_RUNNING)],
        without_majority: &[("switchover", NO_MAJORITY), ("switchover --at 1h", NO_MAJORITY)],
    },
    Row {
        command: "failover",
        wrong_member: &[
            ("failover --to m9", "there is no member m9; there are m1, m2, m3"),
            ("failover --to m1", "m1 is the primary already"),
            ("failover --accept-data-loss --confirm demo", "nothing has to be lost"),
        ],
        dead_target: &[("failover --to m3", Refused("m3"))],
        on_the_dead: &[("failover", NOT_RUNNING)],
        without_majority: &[("failover", NO_MAJORITY)],
    },
    Row {
        command: "pause",
        wrong_member: &[("pause --until yesterday", "is no time; write for example 30m")],
        on_the_dead: &[("pause", NOT_RUNNING)],
        without_majority: &[("pause", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "resume",
        on_the_dead: &[("resume", NOT_RUNNING)],
        without_majority: &[("resume", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "maintenance",
        wrong_member: &[("maintenance m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("maintenance m2", NOT_RUNNING)],
        without_majority: &[("maintenance m2", NO_MAJORITY), ("maintenance m2 --off", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "reinit",
        wrong_member: &[
            ("reinit m9 --confirm m9", "there is no member m9; there are m1, m2, m3"),
            ("reinit m1 --confirm m1", "switch over to another"),
            ("reinit m2", "give it with: --confirm m2"),
            ("reinit m2 --confirm m3", "nothing was done"),
        ],
        dead_target: &[("reinit m3 --confirm m3", Refused("m3"))],
        on_the_dead: &[("reinit m2 --confirm m2", NOT_RUNNING)],
        without_majority: &[("reinit m2 --confirm m2", NO_MAJORITY)],
    },
    Row {
        command: "restart",
        wrong_member: &[
            ("restart m9", "there is no member m9; there are m1, m2, m3"),
            ("restart", "or say --pending"),
            ("restart --follow", "no restart is under way"),
            ("restart --cancel", "no restart is under way"),
        ],
        dead_target: &[("restart m3", Refused("start it"))],
        on_the_dead: &[("restart m2", NOT_RUNNING)],
        without_majority: &[("restart m1", NO_MAJORITY), ("restart --pending", NO_MAJORITY)],
    },
    Row {
        command: "reload",
        on_the_dead: &[("reload", NOT_RUNNING)],
        without_majority: &[("reload", Works)],
        ..NOTHING
    },
    Row {
        command: "verify",
        wrong_member: &[("verify --only everything", "see: mainstay verify --help")],
        on_the_dead: &[("verify --only versions", Works)],
        without_majority: &[("verify --list", Works)],
        ..NOTHING
    },
    Row {
        command: "drill",
        wrong_member: &[
            ("drill kill --member m9 --yes", "there is no member m9; there are m1, m2, m3"),
            ("drill kill", "--yes"),
        ],
        dead_target: &[("drill kill --member m3 --yes", Refused("see `mainstay verify`"))],
        on_the_dead: &[("drill kill --yes", NOT_RUNNING)],
        without_majority: &[("drill kill --yes", Refused("see `mainstay verify`"))],
    },
    Row {
        command: "psql",
        on_the_dead: &[("psql -- -Atc SELECT", Works)],
        without_majority: &[("psql -- -Atc SELECT", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "vip status",
        on_the_dead: &[("vip status", Works)],
        without_majority: &[("vip status", Works)],
        ..NOTHING
    },
    Row {
        command: "sql status",
        wrong_member: &[("sql status --member m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("sql status", NOT_RUNNING)],
        ..NOTHING
    },
    Row {
        command: "sql pause",
        wrong_member: &[("sql pause --member m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("sql pause", NOT_RUNNING)],
        ..NOTHING
    },
    Row {
        command: "sql resume",
        wrong_member: &[("sql resume --member m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("sql resume", NOT_RUNNING)],
        ..NOTHING
    },
    Row {
        command: "sql reconnect",
        wrong_member: &[("sql reconnect --member m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("sql reconnect", NOT_RUNNING)],
        ..NOTHING
    },
    Row {
        command: "sql-proxy",
        on_the_dead: &[(
            "sql-proxy --alone --directory /nonexistent",
            Refused("knows no cluster; join one: mainstay sql-proxy --join TOKEN@HOST:PORT"),
        )],
        ..NOTHING
    },
    Row {
        command: "certificates show",
        on_the_dead: &[("certificates show", Works)],
        without_majority: &[("certificates show", Works)],
        ..NOTHING
    },
    Row { command: "certificates renew", on_the_dead: &[("certificates renew", NOT_RUNNING)], ..NOTHING },
    Row {
        command: "certificates rotate-key",
        wrong_member: &[(
            "certificates rotate-key --member m9",
            "there is no member m9; there are m1, m2, m3",
        )],
        dead_target: &[("certificates rotate-key --member m3", Refused("m3 is not reached"))],
        on_the_dead: &[("certificates rotate-key", NOT_RUNNING)],
        without_majority: &[("certificates rotate-key", NO_MAJORITY)],
    },
    Row {
        command: "config show",
        wrong_member: &[("config show m9 --effective", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("config show", NOT_RUNNING)],
        without_majority: &[("config show", Works)],
        ..NOTHING
    },
    Row {
        command: "config edit",
        on_the_dead: &[("config edit", Refused("config set"))],
        without_majority: &[("config edit", Refused("config set"))],
        ..NOTHING
    },
    Row {
        command: "config set",
        wrong_member: &[
            ("config set work_mem=5MB --member m9 --yes", "there is no member m9; there are m1, m2, m3"),
            ("config set work_mem=5MB", "--yes"),
            ("config set work_men=5MB --yes", "did you mean `work_mem`?"),
        ],
        on_the_dead: &[("config set work_mem=5MB --yes", NOT_RUNNING)],
        without_majority: &[("config set work_mem=5MB --yes", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "config unset",
        wrong_member: &[("config unset work_mem --yes", "work_mem")],
        on_the_dead: &[("config unset work_mem --yes", NOT_RUNNING)],
        without_majority: &[("config unset work_mem --yes", Refused("work_mem"))],
        ..NOTHING
    },
    Row {
        command: "config history",
        on_the_dead: &[("config history", NOT_RUNNING)],
        without_majority: &[("config history", Works)],
        ..NOTHING
    },
    Row {
        command: "config rollback",
        wrong_member: &[("config rollback 7 --yes", "mainstay config history")],
        on_the_dead: &[("config rollback 0 --yes", NOT_RUNNING)],
        without_majority: &[("config rollback 7 --yes", Refused("mainstay config history"))],
        ..NOTHING
    },
    Row {
        command: "config check",
        wrong_member: &[("config check /nonexistent.toml", "/nonexistent.toml: cannot be read")],
        ..NOTHING
    },
    Row {
        command: "config import pgbouncer",
        wrong_member: &[(
            "config import pgbouncer /nonexistent.ini",
            "/nonexistent.ini cannot be read; name PgBouncer's own file",
        )],
        ..NOTHING
    },
    Row {
        command: "config tune",
        on_the_dead: &[("config tune", NOT_RUNNING), ("config tune --apply --yes", NOT_RUNNING)],
        without_majority: &[("config tune", Works), ("config tune --apply --yes", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "member list",
        on_the_dead: &[("member list", Works)],
        without_majority: &[("member list", Works)],
        ..NOTHING
    },
    Row {
        command: "member invite",
        wrong_member: &[("member invite --member m2", "mainstay member replace m2")],
        on_the_dead: &[("member invite", NOT_RUNNING)],
        without_majority: &[("member invite", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "member revoke",
        wrong_member: &[("member revoke 1a2b3c4d", "see them with: mainstay member list")],
        on_the_dead: &[("member revoke 1a2b3c4d", NOT_RUNNING)],
        without_majority: &[("member revoke 1a2b3c4d", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "member replace",
        wrong_member: &[("member replace m9", "there is no member m9; there are m1, m2, m3")],
        on_the_dead: &[("member replace m2", NOT_RUNNING)],
        without_majority: &[("member replace m2", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "member remove",
        wrong_member: &[
            ("member remove m9 --yes", "there is no member m9; there are m1, m2, m3"),
            ("member remove m1 --yes", "switch over to another member first"),
            ("member remove m2", "say so with --yes"),
        ],
        on_the_dead: &[("member remove m2 --yes", NOT_RUNNING)],
        without_majority: &[("member remove m2 --yes", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "leave",
        wrong_member: &[
            ("leave", "say so with --yes"),
            ("leave --yes", "switch over to another member first"),
        ],
        on_the_dead: &[("leave --yes", NOT_RUNNING)],
        without_majority: &[("leave --yes", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "uninstall",
        wrong_member: &[("uninstall --yes", "take it out of the cluster with `mainstay leave`")],
        on_the_dead: &[("uninstall", Refused("say so with --yes"))],
        without_majority: &[("uninstall --yes", Refused("take it out of the cluster with `mainstay leave`"))],
        ..NOTHING
    },
    Row { command: "logs", wrong_member: &[("logs m9", "m9")], ..NOTHING },
    Row {
        command: "support",
        wrong_member: &[("support --output /nonexistent/bundle.tar.gz", "/nonexistent")],
        ..NOTHING
    },
    Row {
        command: "client list",
        on_the_dead: &[("client list", NOT_RUNNING)],
        without_majority: &[("client list", Works)],
        ..NOTHING
    },
    Row {
        command: "client add",
        wrong_member: &[("client add nobody --out /nonexistent/token", "name a new file with --out")],
        on_the_dead: &[("client add nobody --out DIR/nobody.token", NOT_RUNNING)],
        without_majority: &[("client add nobody --out DIR/nobody.token", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "client remove",
        wrong_member: &[("client remove nobody", "see them with: mainstay client list")],
        on_the_dead: &[("client remove nobody", NOT_RUNNING)],
        without_majority: &[("client remove nobody", NO_MAJORITY)],
        ..NOTHING
    },
    Row {
        command: "recover",
        wrong_member: &[
            ("recover --yes", "see: mainstay recover --help"),
            ("recover --from-this-member --yes --json", "stop it first"),
        ],
        ..NOTHING
    },
    Row {
        command: "init",
        wrong_member: &[("init --yes", "exists already: this machine has a member")],
        on_the_dead: &[("init --yes", Refused("exists already: this machine has a member"))],
        without_majority: &[("init --yes", Refused("exists already: this machine has a member"))],
        ..NOTHING
    },
    Row {
        command: "join",
        wrong_member: &[("join TOKEN@127.0.0.1", "exists already: this machine is a member")],
        on_the_dead: &[("join TOKEN@127.0.0.1", Refused("exists already: this machine is a member"))],
        ..NOTHING
    },
    Row {
        command: "create",
        wrong_member: &[("create", "is in use by another process; stop that one first")],
        on_the_dead: &[("create", Refused("needs an empty one"))],
        ..NOTHING
    },
    Row { command: "run", wrong_member: &[("run", "end it, or give this member another port")], ..NOTHING },
    Row {
        command: "decide",
        wrong_member: &[("decide --view /nonexistent.json", "cannot read /nonexistent.json")],
        ..NOTHING
    },
    Row {
        command: "completions",
        wrong_member: &[("completions csh", "see: mainstay completions --help")],
        ..NOTHING
    },
    Row { command: "demo status", wrong_member: &[("demo --dir /nonexistent status", NO_DEMO)], ..NOTHING },
    Row { command: "demo psql", wrong_member: &[("demo --dir /nonexistent psql", NO_DEMO)], ..NOTHING },
    Row { command: "demo urls", wrong_member: &[("demo --dir /nonexistent urls", NO_DEMO)], ..NOTHING },
    Row {
        command: "demo kill",
        wrong_member: &[(
            "demo --dir DIR kill m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        dead_target: &[("demo --dir DIR kill m3", Refused("m3"))],
        ..NOTHING
    },
    Row {
        command: "demo stop",
        wrong_member: &[(
            "demo --dir DIR stop m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        dead_target: &[("demo --dir DIR stop m3", Refused("m3"))],
        ..NOTHING
    },
    Row {
        command: "demo start",
        wrong_member: &[(
            "demo --dir DIR start m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        ..NOTHING
    },
    Row {
        command: "demo freeze",
        wrong_member: &[(
            "demo --dir DIR freeze m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        dead_target: &[("demo --dir DIR freeze m3", Refused("m3"))],
        ..NOTHING
    },
    Row {
        command: "demo thaw",
        wrong_member: &[(
            "demo --dir DIR thaw m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        dead_target: &[("demo --dir DIR thaw m3", Refused("./demo start m3"))],
        ..NOTHING
    },
    Row {
        command: "demo switchover",
        wrong_member: &[(
            "demo --dir DIR switchover --to m9",
            "there is no member m9 in this demo; there are m1, m2, m3",
        )],
        ..NOTHING
    },
    Row { command: "demo verify", wrong_member: &[("demo --dir /nonexistent verify", NO_DEMO)], ..NOTHING },
    Row {
        command: "demo drill",
        wrong_member: &[("demo --dir /nonexistent drill kill", NO_DEMO)],
        ..NOTHING
    },
    Row { command: "demo explain", wrong_member: &[("demo --dir /nonexistent explain", NO_DEMO)], ..NOTHING },
];

/// The commands that do something themselves, as `--help` shows them.
fn commands() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for verb in help(&[]).0 {
        let inner = help(&[&verb]).0;
        if inner.is_empty() {
            all.insert(verb);
            continue;
        }
        for word in inner {
            let deepest = help(&[&verb, &word]).0;
            if deepest.is_empty() {
                all.insert(format!("{verb} {word}"));
            }
            for last in deepest {
                assert!(
                    help(&[&verb, &word, &last]).0.is_empty(),
                    "{verb} {word} {last}: walk its commands here"
                );
                all.insert(format!("{verb} {word} {last}"));
            }
        }
    }
    all
}

#[test]
fn every_command_has_a_row_and_says_what_is_wrong_with_its_arguments() {
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.command.to_owned()).collect();
    assert_eq!(rows, commands(), "rows of this table and commands differ");
    for row in ROWS {
        let tried = row.wrong_member.len()
            + row.dead_target.len()
            + row.on_the_dead.len()
            + row.without_majority.len();
        assert!(tried > 0, "{} is never tried", row.command);
        let words: Vec<&str> = row.command.split(' ').chain(["--no-such-option"]).collect();
        let output = mainstay(&words);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{}: {said}", row.command);
        assert_eq!(said.trim_end().lines().count(), 1, "{}: more than one line:\n{said}", row.command);
        let remedy = format!("; see: mainstay {} --help", row.command);
        assert!(said.contains("'--no-such-option'") && said.contains(&remedy), "{}: {said}", row.command);
    }
}

/// Types the line on the machine of `member`.
fn run(demo: &Demo, member: &str, line: &str) -> (std::process::Output, Duration) {
    let (configuration, directory) = (demo.configuration(member), demo.directory.display().to_string());
    let (configuration, begun) = (configuration.display().to_string(), Instant::now());
    let line = line.replace("DIR", &directory);
    let mut words: Vec<&str> = line.split(' ').collect();
    let takes_none = ["config check", "config import"];
    let takes_config = !["demo", "decide", "completions"].contains(&words[0])
        && !takes_none.iter().any(|start| line.starts_with(start));
    if takes_config {
        let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        words.splice(end..end, ["--config", configuration.as_str()]);
    }
    (mainstay(&words), begun.elapsed())
}

/// What is wrong with how it went, if anything.
fn judge(demo: &Demo, member: &str, line: &str, outcome: &Outcome) -> Option<String> {
    let (output, took) = run(demo, member, line);
    let (said, code) = (stderr(&output), output.status.code());
    let wrong = match outcome {
        Works => code != Some(0),
        Refused(text) => {
            !matches!(code, Some(1 | 2)) || said.trim_end().lines().count() != 1 || !said.contains(text)
        }
    };
    let expected = match outcome {
        Works => "works",
        Refused(text) => text,
    };
    let shown = || {
        format!(
            "on {member}: {line}: {code:?} after {took:.1?}, expected {expected:?}:\n{}{said}",
            stdout(&output)
        )
    };
    (wrong || took > PATIENCE).then(shown)
}

/// Types all of `lines` at once, as several people might.
fn all_are_so<'a>(demo: &Demo, member: &str, lines: impl Iterator<Item = (&'a str, &'a Outcome)>) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            lines.map(|(line, outcome)| scope.spawn(move || judge(demo, member, line, outcome))).collect();
        asked.into_iter().filter_map(|asked| asked.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a command that was refused must not have changed.
fn state(demo: &Demo) -> Value {
    let json = |line: &str| -> Value {
        let (output, _) = run(demo, "m1", line);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {}", stderr(&output)))
    };
    let status = json("status --json");
    let row = |row: &Value| serde_json::json!([row["name"], row["votes"], row["leaving"]]);
    let members: Vec<Value> = status["members"].as_array().expect("members").iter().map(row).collect();
    let operation = &status["operation"];
    serde_json::json!([
        status["epoch"],
        members,
        operation["pause"],
        operation["maintenance"],
        operation["scheduled"],
        status["restart"],
        json("member list --json")["invitations"],
        json("config history --json"),
    ])
}

#[test]
fn every_command_is_refused_in_one_line_and_changes_nothing() {
    let demo = Demo::started("every", 3);
    let before = state(&demo);
    let wrong: Vec<(&str, Outcome)> =
        ROWS.iter().flat_map(|row| row.wrong_member).map(|(line, text)| (*line, Refused(text))).collect();
    all_are_so(&demo, "m1", wrong.iter().map(|(line, outcome)| (*line, outcome)));
    assert_eq!(state(&demo), before, "a wrong member");

    let of = |pick: fn(&Row) -> &'static [(&'static str, Outcome)]| {
        ROWS.iter().flat_map(pick).map(|(line, outcome)| (*line, outcome))
    };
    done(&demo, &["kill", "m3"]);
    // By what m1 says: the demo itself sees at once that a process is gone.
    wait_until("m1 does not hear m3", || {
        let status: Value =
            serde_json::from_slice(&run(&demo, "m1", "status --json").0.stdout).unwrap_or_default();
        let rows = status["members"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["name"] == "m3" && row["role"] != "standby")
    });
    all_are_so(&demo, "m1", of(|row| row.dead_target));
    all_are_so(&demo, "m3", of(|row| row.on_the_dead));
    assert_eq!(state(&demo), before, "a dead member");

    done(&demo, &["freeze", "m2"]);
    wait_until("m1 has lost its lease", || demo.status()["writable"] == false);
    all_are_so(&demo, "m1", of(|row| row.without_majority));
    // Nothing of it waits to be carried out when there is a majority again.
    done(&demo, &["thaw", "m2"]);
    done(&demo, &["start", "m3"]);
    wait_until("the cluster is whole again", || {
        let status = demo.status();
        let rows = status["members"].as_array().cloned().unwrap_or_default();
        status["writable"] == true && rows.iter().filter(|row| row["sync"] == true).count() == 2
    });
    let mut after = state(&demo);
    // It was open anew, by whoever holds everything.
    after[0] = before[0].clone();
    assert_eq!(after, before, "no majority");
}

fn done(demo: &Demo, words: &[&str]) {
    let output = demo.run(words);
    assert!(output.status.success(), "{words:?}: {}{}", stdout(&output), stderr(&output));
}
