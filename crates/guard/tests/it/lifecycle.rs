//! Starting, stopping, killing, and what a guard does with its own life.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use mainstay_guard::{
    Cause, ClientError, Exit, GuardClient, GuardEvent, Phase, Pid, Refusal, StopMode, boottime_ns,
};
use nix::sys::signal::Signal;

use crate::Test;
use crate::fixture::{
    Fixture, SECOND_NS, block_on, command_line, descendants, is_gone, refusal, run_as, signal, state, until,
};

pub(crate) const TESTS: &[Test] = &[
    ("lifecycle::starts_and_stops", starts_and_stops),
    ("lifecycle::postgres_inherits_nothing_of_the_guard", postgres_inherits_nothing_of_the_guard),
    ("lifecycle::the_guard_is_protected_or_says_why_not", the_guard_is_protected_or_says_why_not),
    ("lifecycle::kills_busy_backends_by_cgroup", kills_busy_backends_by_cgroup),
    ("lifecycle::kills_busy_backends_one_by_one", kills_busy_backends_one_by_one),
    ("lifecycle::kills_what_postgres_has_started", kills_what_postgres_has_started),
    ("lifecycle::a_cgroup_that_was_tidied_away_is_made_anew", a_cgroup_that_was_tidied_away_is_made_anew),
    ("lifecycle::a_stop_that_takes_too_long_is_a_kill", a_stop_that_takes_too_long_is_a_kill),
    ("lifecycle::the_rest_dies_with_the_postmaster", the_rest_dies_with_the_postmaster),
    ("lifecycle::a_start_that_fails_is_reported_each_time", a_start_that_fails_is_reported_each_time),
    (
        "lifecycle::a_server_that_refuses_its_directory_is_reported",
        a_server_that_refuses_its_directory_is_reported,
    ),
    (
        "lifecycle::a_server_without_standby_signal_is_not_started",
        a_server_without_standby_signal_is_not_started,
    ),
    ("lifecycle::a_foreign_server_in_the_directory_is_ended", a_foreign_server_in_the_directory_is_ended),
    ("lifecycle::a_new_guard_waits_for_a_zombie", a_new_guard_waits_for_a_zombie),
    ("lifecycle::reload_terminate_and_children", reload_terminate_and_children),
    ("lifecycle::a_reload_right_after_the_start_is_survived", a_reload_right_after_the_start_is_survived),
    ("lifecycle::one_guard_per_directory", one_guard_per_directory),
    ("lifecycle::quits_when_told_to", quits_when_told_to),
    ("lifecycle::a_signal_stops_server_and_guard", a_signal_stops_server_and_guard),
    ("lifecycle::quits_when_idle_or_without_directory", quits_when_idle_or_without_directory),
];

fn starts_and_stops() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        let first = fixture.start_server(&member).await;
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.phase, status.postmaster, status.opened), (Phase::Running, Some(first), None));
        let again = refusal(member.guard.start(fixture.start()).await.unwrap_err());
        assert_eq!(again, Refusal::NotEmpty { phase: Phase::Running });

        assert!(!member.guard.stop(StopMode::Fast, 60_000).await.unwrap());
        let exit = Exit { pid: first, code: Some(0), signal: None };
        assert_eq!(
            member.event_where(|event| matches!(event, GuardEvent::Exited(_))).await,
            GuardEvent::Exited(exit)
        );
        assert_eq!(
            member.event().await,
            GuardEvent::Empty { cause: Cause::Stopped, last_epoch_opened: None }
        );
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.phase, status.last_exit), (Phase::Empty, Some(exit)));
        assert_eq!(status.last_cause, Some(Cause::Stopped));

        // Nothing to stop or kill is no error, and is said.
        assert!(member.guard.stop(StopMode::Fast, 0).await.unwrap());
        assert!(member.guard.kill().await.unwrap());
        let second = fixture.start_server(&member).await;
        assert_ne!(first, second);
    });
}

fn postgres_inherits_nothing_of_the_guard() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        // Not all that run this may lower it, which the guard does; raising it shows the same.
        let adjust = format!("/proc/{}/oom_score_adj", member.status.guard_pid);
        fs::write(adjust, "500").unwrap();
        let pid = fixture.start_server(&member).await;
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        assert_eq!(read("oom_score_adj").trim(), "0");
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // proc(5): 4 is the parent, 19 the nice value, 41 the scheduling policy, of which 0 is SCHED_OTHER.
        assert_eq!(fields[4 - 3], member.status.guard_pid.to_string());
        assert_eq!(fields[41 - 3], "0");
        // A positive one is what a guard without rights was itself given.
        assert!(!fields[19 - 3].starts_with('-'), "nice {}", fields[19 - 3]);
        let process_status = read("status");
        let field = |name: &str| {
            let line = process_status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
        };
        if let Some(user) = run_as() {
            assert_eq!(field("Uid:"), [(); 4].map(|()| user.uid.to_string()));
            assert_eq!(field("Gid:"), [(); 4].map(|()| user.gid.to_string()));
            let mut groups = user.groups.clone();
            groups.sort_unstable();
            assert_eq!(field("Groups:"), groups.iter().map(u32::to_string).collect::<Vec<String>>());
            assert_eq!(fs::metadata(fixture.server_log()).unwrap().uid(), user.uid);
        }
        assert_eq!(fs::metadata(fixture.server_log()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(field("VmLck:"), ["0", "kB"]);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        for descriptor in descriptors {
            let target = fs::read_link(descriptor.unwrap().path()).unwrap_or_default();
            assert!(!target.starts_with(fixture.directory()), "PostgreSQL holds {}", target.display());
        }
        assert!(read("environ").split('\0').any(|entry| entry == "PGMARK=mark of the test"));
        assert!(!read("environ").contains("CARGO"), "the guard's own environment went to PostgreSQL");
        if let Some(cgroup) = &member.status.cgroup {
            let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
            assert!(members.lines().any(|member| member == pid.to_string()));
        }
    });
}

fn the_guard_is_protected_or_says_why_not() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let read =
            |name: &str| fs::read_to_string(format!("/proc/{}/{name}", member.status.guard_pid)).unwrap();
        let warnings = &member.status.warnings;
        let is_warned = |of: &str| warnings.iter().any(|warning| warning.contains(of));
        assert!(is_warned("out-of-memory") || read("oom_score_adj").trim() == "-1000", "{warnings:?}");
        let status = read("status");
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        assert!(is_warned("its memory") || locked.trim() != "0 kB", "{warnings:?}");
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // proc(5): 19 is the nice value, 41 the scheduling policy, of which 1 is SCHED_FIFO.
        let precedence = fields[41 - 3] == "1" || fields[19 - 3] == "-20";
        assert!(is_warned("processor") || precedence, "{warnings:?}");
        assert_eq!(status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap().trim(), "1");
        crate::say(&format!("    denied: {warnings:?}; policy {}, nice {}", fields[41 - 3], fields[19 - 3]));
    });
}

fn kills_busy_backends_by_cgroup() {
    kills_busy_backends(Fixture::new());
}

fn kills_busy_backends_one_by_one() {
    kills_busy_backends(Fixture::without_cgroup());
}

fn kills_busy_backends(mut fixture: Fixture) {
    block_on(async {
        let mut member = fixture.member(1).await;
        assert!(fixture.use_cgroup || member.status.cgroup.is_none());
        let postmaster = fixture.start_server(&member).await;
        fixture.busy_sessions(2).await;
        let processes = fixture.leftovers();
        assert!(
            processes.len() > 4,
            "postmaster, startup, checkpointer, writer and two backends: {processes:?}"
        );
        assert!(!member.guard.kill().await.unwrap());
        let exit = member.event_where(|event| matches!(event, GuardEvent::Exited(_))).await;
        assert_eq!(exit, GuardEvent::Exited(Exit { pid: postmaster, code: None, signal: Some(9) }));
        assert_eq!(member.event().await, GuardEvent::Empty { cause: Cause::Killed, last_epoch_opened: None });
        for pid in processes {
            assert_eq!(state(pid), None, "process {pid} is left");
        }
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
        fixture.start_server(&member).await;
    });
}

fn kills_what_postgres_has_started() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let mut member = fixture.member(1).await;
            let mut start = fixture.start();
            // A shell, what it runs, and one that has left its parents.
            let command = "sleep 601 & setsid sh -c 'sleep 602 & exec sleep 603' & sleep 604";
            start.arguments.extend(["-c".to_owned(), format!("restore_command={command}")]);
            member.guard.start(start).await.unwrap();
            let mut sleepers = Vec::new();
            until("all are there", || {
                sleepers = descendants(member.status.guard_pid);
                sleepers.retain(|pid| command_line(*pid).starts_with("sleep 60"));
                sleepers.len() == 4
            })
            .await;
            member.guard.kill().await.unwrap();
            member.event_where(|event| matches!(event, GuardEvent::Empty { cause: Cause::Killed, .. })).await;
            for pid in sleepers {
                assert_eq!(state(pid), None, "process {pid} is left: {}", command_line(pid));
            }
        });
    }
}

fn a_cgroup_that_was_tidied_away_is_made_anew() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        // Where there is no cgroup, this is one more plain start.
        if let Some(cgroup) = &member.status.cgroup {
            fs::remove_dir(cgroup).unwrap();
        }
        let postmaster = fixture.start_server(&member).await;
        assert_eq!(member.guard.status().await.unwrap().cgroup, member.status.cgroup);
        if let Some(cgroup) = &member.status.cgroup {
            let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
            assert!(members.lines().any(|member| member == postmaster.to_string()));
        }
        member.guard.kill().await.unwrap();
        member.event_where(|event| matches!(event, GuardEvent::Empty { cause: Cause::Killed, .. })).await;
    });
}

fn a_stop_that_takes_too_long_is_a_kill() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        let postmaster = fixture.start_server(&member).await;
        signal(postmaster, Signal::SIGSTOP);
        member.guard.stop(StopMode::Fast, 200).await.unwrap();
        assert_eq!(member.guard.status().await.unwrap().phase, Phase::Stopping);
        assert_eq!(
            member.until_empty().await,
            GuardEvent::Empty { cause: Cause::Killed, last_epoch_opened: None }
        );
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
    });
}

fn the_rest_dies_with_the_postmaster() {
    for mut fixture in [Fixture::new(), Fixture::without_cgroup()] {
        block_on(async {
            let mut member = fixture.member(1).await;
            let postmaster = fixture.start_server(&member).await;
            fixture.busy_sessions(2).await;
            let processes = fixture.leftovers();
            signal(postmaster, Signal::SIGKILL);
            let exit = Exit { pid: postmaster, code: None, signal: Some(9) };
            let first = member
                .event_where(|event| !matches!(event, GuardEvent::Empty { cause: Cause::Leftovers, .. }));
            assert_eq!(first.await, GuardEvent::Exited(exit));
            assert_eq!(
                member.event().await,
                GuardEvent::Empty { cause: Cause::Exited, last_epoch_opened: None }
            );
            assert!(processes.into_iter().all(|pid| state(pid).is_none()));
        });
    }
}

fn a_start_that_fails_is_reported_each_time() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        for _ in 0..5 {
            let mut start = fixture.start();
            start.program = "/nonexistent/postgres".into();
            let missing = refusal(member.guard.start(start).await.unwrap_err());
            assert!(
                matches!(&missing, Refusal::StartFailed { step, .. } if step == "execute the program"),
                "{missing}"
            );
            assert!(missing.to_string().contains("/nonexistent/postgres"));

            let mut start = fixture.start();
            start.log_file = fixture.directory().join("not/there.log");
            let no_log = refusal(member.guard.start(start).await.unwrap_err());
            assert!(
                matches!(&no_log, Refusal::StartFailed { step, .. } if step == "open the log file"),
                "{no_log}"
            );
        }
        // It was not PostgreSQL that ended there.
        assert_eq!(member.guard.status().await.unwrap().last_exit, None);
        // Each answer came when nothing was left of the attempt, so the good one is not refused.
        fixture.start_server(&member).await;
    });
}

fn a_server_that_refuses_its_directory_is_reported() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        fs::set_permissions(fixture.data(), fs::Permissions::from_mode(0o777)).unwrap();
        for _ in 0..3 {
            let pid = member.guard.start(fixture.start()).await.unwrap();
            let exit = member.event_where(|event| matches!(event, GuardEvent::Exited(_))).await;
            assert_eq!(exit, GuardEvent::Exited(Exit { pid, code: Some(1), signal: None }));
            assert_eq!(
                member.event().await,
                GuardEvent::Empty { cause: Cause::Exited, last_epoch_opened: None }
            );
        }
        assert!(fixture.server_log_text().contains("has invalid permissions"));
        fs::set_permissions(fixture.data(), fs::Permissions::from_mode(0o700)).unwrap();
        fixture.start_server(&member).await;
    });
}

fn a_server_without_standby_signal_is_not_started() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        fs::remove_file(fixture.data().join("standby.signal")).unwrap();
        let refused = refusal(member.guard.start(fixture.start()).await.unwrap_err());
        assert!(matches!(refused, Refusal::NoStandbySignal { .. }), "{refused}");
        assert_eq!(member.guard.status().await.unwrap().phase, Phase::Empty);
    });
}

fn a_foreign_server_in_the_directory_is_ended() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        let start = fixture.start();
        let mut by_hand = Command::new(&start.program);
        if run_as().is_some() {
            by_hand = Command::new("setpriv");
            by_hand.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(&start.program);
        }
        let log = fs::File::create(fixture.server_log()).unwrap();
        let mut by_hand = by_hand.args(&start.arguments).stderr(log).current_dir("/").spawn().unwrap();
        until("the foreign server answers", || fixture.query("select 1").is_ok()).await;
        // Nobody asks for it.
        by_hand.wait().unwrap();
        let empty = member
            .event_where(|event| matches!(event, GuardEvent::Empty { cause: Cause::Leftovers, .. }))
            .await;
        assert_eq!(empty, GuardEvent::Empty { cause: Cause::Leftovers, last_epoch_opened: None });
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
        fs::remove_file(fixture.server_log()).unwrap();
        fixture.start_server(&member).await;
    });
}

/// A postmaster whose guard was killed is a zombie until init waits for it, and PostgreSQL refused to start meanwhile.
fn a_new_guard_waits_for_a_zombie() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut zombie = Command::new("true").spawn().unwrap();
        let zombie_pid = zombie.id() as Pid;
        until("it is a zombie", || state(zombie_pid) == Some('Z')).await;
        let lock = fixture.data().join("postmaster.pid");
        fs::write(&lock, format!("{zombie_pid}\n{}\n", fixture.data().display())).unwrap();
        let mut member = fixture.connect(1).await;
        assert_eq!(member.status.phase, Phase::Ending);
        assert_eq!(member.guard.status().await.unwrap().phase, Phase::Ending);
        zombie.wait().unwrap();
        assert_eq!(
            member.until_empty().await,
            GuardEvent::Empty { cause: Cause::Leftovers, last_epoch_opened: None }
        );
        fixture.start_server(&member).await;
    });
}

fn a_reload_right_after_the_start_is_survived() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let postmaster = member.guard.start(fixture.start()).await.unwrap();
        // Long before it catches the signal.
        member.guard.reload().await.unwrap();
        until("the server answers", || fixture.query("select 1").as_deref() == Ok("1")).await;
        assert_eq!(member.guard.status().await.unwrap().postmaster, Some(postmaster));
    });
}

fn reload_terminate_and_children() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        assert_eq!(refusal(member.guard.reload().await.unwrap_err()), Refusal::NotRunning);
        assert_eq!(member.guard.children().await.unwrap(), []);
        let postmaster = fixture.start_server(&member).await;

        member.guard.reload().await.unwrap();
        until("the reload is logged", || fixture.server_log_text().contains("received SIGHUP")).await;

        fixture.busy_sessions(1).await;
        let children = member.guard.children().await.unwrap();
        assert!(children.iter().any(|child| child.title.starts_with("postgres: startup")), "{children:?}");
        let busy = children.iter().find(|child| child.title.contains("[local] SELECT")).unwrap();

        let strangers = vec![postmaster, member.status.guard_pid, std::process::id() as Pid, 1];
        assert_eq!(member.guard.terminate(strangers).await.unwrap(), Vec::<Pid>::new());
        assert_eq!(member.guard.terminate(vec![1, busy.pid]).await.unwrap(), [busy.pid]);
        until("the backend is gone", || is_gone(busy.pid)).await;
        // It was no crash: the server is the same and answers.
        assert_eq!(fixture.query("select 1").as_deref(), Ok("1"));
        assert_eq!(member.guard.status().await.unwrap().postmaster, Some(postmaster));
        while let Ok(event) = member.events.try_recv() {
            assert!(matches!(event, GuardEvent::Empty { cause: Cause::Leftovers, .. }), "{event:?}");
        }
    });
}

fn one_guard_per_directory() {
    block_on(async {
        let mut fixture = Fixture::new();
        let member = fixture.member(1).await;
        let postmaster = fixture.start_server(&member).await;
        let spawn = fixture.spawn_guard();
        let second = Command::new(&spawn.program).args(&spawn.arguments).output().unwrap();
        assert!(!second.status.success());
        assert!(String::from_utf8_lossy(&second.stdout).contains("another guard runs in"));
        let status = member.guard.status().await.unwrap();
        assert_eq!((status.phase, status.postmaster), (Phase::Running, Some(postmaster)));
    });
}

fn quits_when_told_to() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        fixture.start_server(&member).await;
        assert_eq!(
            refusal(member.guard.quit(false).await.unwrap_err()),
            Refusal::NotEmpty { phase: Phase::Running }
        );
        member.guard.quit(true).await.unwrap();
        assert_eq!(
            member.until_empty().await,
            GuardEvent::Empty { cause: Cause::Killed, last_epoch_opened: None }
        );
        member.event_where(|event| *event == GuardEvent::Died).await;
        assert_eq!(fixture.leftovers(), Vec::<Pid>::new());
        assert!(!fixture.directory().join("guard.sock").exists());
        assert!(!fixture.directory().join("guard.pid").exists());
        assert!(member.status.cgroup.as_ref().is_none_or(|cgroup| !cgroup.exists()));
        assert!(matches!(member.guard.status().await, Err(ClientError::Lost)));
    });
}

fn a_signal_stops_server_and_guard() {
    block_on(async {
        let mut fixture = Fixture::new();
        let mut member = fixture.member(1).await;
        fixture.open_server(&member, 1, 600).await;
        signal(member.status.guard_pid, Signal::SIGTERM);
        assert_eq!(
            member.until_empty().await,
            GuardEvent::Empty { cause: Cause::Stopped, last_epoch_opened: Some(1) }
        );
        member.event_where(|event| *event == GuardEvent::Died).await;
        assert!(fixture.server_log_text().contains("received fast shutdown request"));
    });
}

fn quits_when_idle_or_without_directory() {
    block_on(async {
        let mut fixture = Fixture::new();
        fixture.idle_quit_ms = 300;
        let member = fixture.member(1).await;
        let guard = member.status.guard_pid;
        // A member that is connected keeps it, also when there is nothing to guard.
        let connected_until = boottime_ns() + SECOND_NS;
        until("three times the idle time is over", || boottime_ns() > connected_until).await;
        member.guard.status().await.unwrap();
        drop(member);
        until("the idle guard is gone", || is_gone(guard)).await;

        fixture.idle_quit_ms = 600_000;
        let mut member = fixture.member(1).await;
        assert_ne!(member.status.guard_pid, guard);
        fs::remove_dir_all(fixture.directory()).unwrap();
        member.event_where(|event| *event == GuardEvent::Died).await;
        let error = GuardClient::connect(&fixture.directory(), 1).await.unwrap_err();
        assert!(matches!(error, ClientError::NoGuard { .. }), "{error}");
    });
}
