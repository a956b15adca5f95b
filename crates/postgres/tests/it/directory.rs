use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mainstay_postgres::directory::{
    self, Change, DirectoryError, DirectoryState, INCARNATION_FILE, Operation,
};
use mainstay_postgres::initdb::{InitdbError, InitdbOptions, initdb};
use mainstay_postgres::layout::{Layout, LayoutError};
use mainstay_postgres::{auto_conf, configuration, history};

use crate::server::{LONG, Member, World, shared_memory_files, system_v_segment};

#[tokio::test]
async fn initdb_makes_a_cluster_that_only_mainstay_starts() {
    let world = World::new();
    let mut member = world.member("m1").await;
    assert_eq!(member.inspect().await, DirectoryState::Empty);
    let made = member.initdb().await;
    let DirectoryState::Valid { control, incarnation } = member.inspect().await else { panic!() };
    assert_eq!((control.system_identifier, incarnation), (made.system_identifier, made.incarnation));
    assert!(control.data_checksums);
    assert!(member.layout.data().join("standby.signal").exists());
    assert!(!member.layout.data().join("postgresql.conf").exists());

    member.start().await;
    let sql = member.sql().await;
    let errors: i64 = sql
        .query_one("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(errors, 0);
    let errors =
        sql.query("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL", &[]).await.unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let unused = sql.query("SELECT name FROM pg_file_settings WHERE NOT applied", &[]).await.unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    let privileges: bool = sql
        .query_one(
            "SELECT rolreplication AND NOT rolsuper AND rolpassword LIKE 'SCRAM-SHA-256$%'
                 AND has_function_privilege(rolname, 'pg_read_binary_file(text,bigint,bigint,boolean)', 'EXECUTE')
             FROM pg_authid WHERE rolname = 'mainstay_replication'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!(privileges);
    let owner: String = member
        .application()
        .await
        .expect("the application's role logs in")
        .query_one("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'app'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(owner, "app");
    assert!(member.observe().await.in_recovery, "it never starts as a primary");
    assert!(member.postmaster().processes().len() > 3);
}

#[tokio::test]
async fn postgresql_accepts_what_is_rendered_and_reads_it_as_meant() {
    let world = World::new();
    let mut member = world.primary("m1").await;
    member.settings.synchronous_standby_names =
        configuration::names(1, &["ms_m2_1a2b3c4d".to_owned(), "ms_m3_00000001".to_owned()]);
    member.set_parameter("app.text", "it's \\ \"x\"");
    member.reload();
    let server = member.server();
    let setting =
        async |name: &str| mainstay_postgres::session::fresh_setting(&server, name, LONG).await.unwrap();
    member
        .wait("the reload", async |_| {
            setting("synchronous_standby_names").await == member.settings.synchronous_standby_names
        })
        .await;
    let row = member.sql().await.query_one("SELECT current_setting('app.text')", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "it's \\ \"x\"");
    for (name, wanted) in [
        ("fsync", "on"),
        ("restart_after_crash", "off"),
        ("wal_receiver_timeout", "5s"),
        ("wal_level", "replica"),
    ] {
        assert_eq!(setting(name).await, wanted, "{name}");
    }
    assert!(
        !configuration::write(&member.layout, member.tools.version(), &member.settings).unwrap(),
        "unchanged"
    );
}

#[tokio::test]
async fn a_failed_initdb_leaves_the_mark_and_can_be_repeated() {
    let world = World::new();
    let mut member = world.member("m1").await;
    let hidden = member.layout.configuration_file().with_extension("hidden");
    std::fs::rename(member.layout.configuration_file(), &hidden).unwrap();
    let options = InitdbOptions { replication_password: "secret".to_owned(), application: None };
    let error = initdb(&member.tools, &member.layout, &options).await.unwrap_err();
    let InitdbError::Tool(cause) = &error else { panic!("{error}") };
    assert!(cause.to_string().contains("postgresql.conf"), "{cause}");
    let DirectoryState::HalfChanged(mark) = member.inspect().await else { panic!() };
    assert_eq!(mark.operation, Operation::Initdb);
    let refused = directory::prepare_start(&member.layout).unwrap_err();
    assert!(matches!(refused, DirectoryError::HalfChanged { .. }), "{refused}");

    std::fs::rename(&hidden, member.layout.configuration_file()).unwrap();
    member.initdb().await;
    assert!(matches!(member.inspect().await, DirectoryState::Valid { .. }));
    let again = initdb(&member.tools, &member.layout, &options).await.unwrap_err();
    assert!(matches!(again, InitdbError::Directory(DirectoryError::NotApplicable { .. })), "{again}");
}

fn foreign_reason(state: &DirectoryState) -> &str {
    match state {
        DirectoryState::Foreign(reason) => reason,
        other => panic!("{other:?} is not foreign"),
    }
}

#[tokio::test]
async fn what_is_not_ours_is_told_and_left_alone() {
    let world = World::new();
    let mut member = world.member("m1").await;
    let stray = member.layout.data().join("letters.txt");
    std::fs::write(&stray, "precious").unwrap();
    foreign_reason(&member.inspect().await);
    let refused = Change::begin(&member.tools, &member.layout, Operation::Clone, None).await.unwrap_err();
    assert!(matches!(refused, DirectoryError::Foreign { .. }), "{refused}");
    assert!(stray.exists());
    let aside = directory::move_aside(&member.layout).unwrap();
    assert_eq!(std::fs::read(aside.join("letters.txt")).unwrap(), b"precious");
    assert_eq!(member.inspect().await, DirectoryState::Empty);

    member.initdb().await;
    let inside = member.layout.data().join(INCARNATION_FILE);
    let text = std::fs::read_to_string(&inside).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        std::fs::write(&inside, text.replace(from, to)).unwrap();
    };
    replaced("\"incarnation\":\"", "\"incarnation\":\"f");
    assert!(foreign_reason(&member.inspect().await).contains("replaced by hand"));
    std::fs::remove_file(&inside).unwrap();
    assert!(foreign_reason(&member.inspect().await).contains("no incarnation"));
    std::fs::write(&inside, &text).unwrap();
    assert!(matches!(member.inspect().await, DirectoryState::Valid { .. }));
    std::fs::write(member.layout.data().join("PG_VERSION"), "9.6\n").unwrap();
    assert!(foreign_reason(&member.inspect().await).contains("9.6"));
    std::fs::write(member.layout.data().join("PG_VERSION"), "15\n").unwrap();
    let control = member.layout.data().join("global/pg_control");
    let mut bytes = std::fs::read(&control).unwrap();
    bytes[100] ^= 0xFF;
    std::fs::write(&control, &bytes).unwrap();
    assert!(matches!(member.inspect().await, DirectoryState::Damaged(_)));
    // The same files under another cluster's number.
    bytes[100] ^= 0xFF;
    std::fs::write(&control, &bytes).unwrap();
    for path in [inside, member.layout.state_dir().join("incarnation.json")] {
        std::fs::write(path, text.replace("\"system_identifier\":", "\"system_identifier\":1")).unwrap();
    }
    assert!(foreign_reason(&member.inspect().await).contains("system identifier"));
    std::fs::remove_dir_all(member.layout.data()).unwrap();
    assert_eq!(member.inspect().await, DirectoryState::Absent);
}

#[tokio::test]
async fn a_running_server_is_never_changed_under() {
    let world = World::new();
    let mut member = world.member("m1").await;
    member.initdb().await;
    member.start().await;
    let refused = Change::begin(&member.tools, &member.layout, Operation::Clone, None).await.unwrap_err();
    assert!(matches!(refused, DirectoryError::Running { .. }), "{refused}");
    assert!(matches!(member.inspect().await, DirectoryState::Valid { .. }), "no mark was left");
}

#[tokio::test]
async fn a_wipe_takes_tablespaces_and_the_dead_servers_shared_memory_along() {
    let world = World::new();
    let mut member = world.primary("m1").await;
    let tablespace = world.path().join("tablespace");
    std::fs::create_dir(&tablespace).unwrap();
    std::fs::set_permissions(&tablespace, std::fs::Permissions::from_mode(0o777)).unwrap();
    let uid = member.layout.server_uid();
    std::os::unix::fs::chown(&tablespace, Some(uid), None).unwrap();
    let sql = format!("CREATE TABLESPACE t LOCATION '{}'", tablespace.display());
    member.sql().await.batch_execute(&sql).await.unwrap();
    std::fs::write(tablespace.join("mine"), "precious").unwrap();

    let segments = shared_memory_files(member.postmaster().pid);
    let id = system_v_segment(member.layout.data()).unwrap();
    assert!(!segments.is_empty());
    // Another server of the same user lives on: what is its must stay.
    let other = world.primary("m2").await;
    let others = shared_memory_files(other.postmaster().pid);
    member.postmaster.as_mut().unwrap().leaves_shared_memory = true;
    member.crash();
    assert!(segments.iter().all(|segment| segment.exists()) && has_system_v_segment(&id));

    let change = Change::begin(&member.tools, &member.layout, Operation::Clone, None).await.unwrap();
    change.wipe().await.unwrap();
    assert!(segments.iter().all(|segment| !segment.exists()), "{segments:?}");
    assert!(!has_system_v_segment(&id));
    assert!(others.iter().all(|segment| segment.exists()));
    other.write_rows(1).await;
    assert_eq!(std::fs::read_dir(member.layout.data()).unwrap().count(), 0);
    let left: Vec<_> =
        std::fs::read_dir(&tablespace).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"]);
    // The mark outlives the data: the directory is not taken for a new member's.
    assert!(matches!(member.inspect().await, DirectoryState::HalfChanged(_)));
    let restored = member.layout.data().with_extension("restored");
    std::fs::create_dir(&restored).unwrap();
    std::fs::remove_dir(member.layout.data()).unwrap();
    assert!(matches!(member.inspect().await, DirectoryState::HalfChanged(_)));
    // But what somebody has put in its place meanwhile is not Mainstay's to remove.
    std::fs::write(restored.join("PG_VERSION"), "15\n").unwrap();
    std::fs::rename(&restored, member.layout.data()).unwrap();
    assert!(foreign_reason(&member.inspect().await).contains("replaced by hand"));
}

fn has_system_v_segment(id: &str) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

#[tokio::test]
async fn tools_that_an_earlier_run_left_at_work_are_ended_first() {
    let world = World::new();
    let member = world.member("m1").await;
    let fake = world.path().join("pg_basebackup");
    std::fs::copy("/bin/sleep", &fake).unwrap();
    let mut left = Command::new(&fake).arg("300").current_dir(member.layout.root()).spawn().unwrap();
    let mut foreign = Command::new(&fake).arg("300").current_dir(world.path()).spawn().unwrap();
    let begun = Change::begin(&member.tools, &member.layout, Operation::Clone, None).await;
    let (left_alive, foreign_alive) =
        (left.try_wait().unwrap().is_none(), foreign.try_wait().unwrap().is_none());
    for child in [&mut left, &mut foreign] {
        let _ = child.kill();
        let _ = child.wait();
    }
    begun.unwrap();
    assert!(!left_alive, "the tool in our directory was ended");
    assert!(foreign_alive, "another's tool was not");
}

#[tokio::test]
async fn unused_timeline_reservations_are_removed_before_a_start() {
    let world = World::new();
    let mut member = world.primary("m1").await;
    member.stop().await;
    let pg_wal = member.layout.pg_wal();
    let newest = member.newest_history().last().unwrap().timeline;
    let dummy = |number: u32| pg_wal.join(format!("{number:08X}.history"));
    // Below the newest real one a dummy belongs to it; above they keep a standby from ever becoming ready.
    for number in [newest.0 + 1, newest.0 + 2] {
        mainstay_postgres::durable::write(&dummy(number), b"", member.layout.server_access()).unwrap();
    }
    assert_eq!(history::all(&pg_wal).unwrap().len(), 1, "dummies are no histories");
    member.start().await;
    assert!(!dummy(newest.0 + 1).exists() && !dummy(newest.0 + 2).exists());
    assert!(dummy(newest.0).exists());
}

#[tokio::test]
async fn alter_system_does_not_override_what_mainstay_sets() {
    let world = World::new();
    let mut member = world.primary("m1").await;
    let sql = member.sql().await;
    let refused = sql.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap_err();
    let said = refused.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(said.contains("postgresql.auto.conf.tmp"), "{said}");

    // By another way, such as COPY TO PROGRAM.
    let path = member.layout.data().join("postgresql.auto.conf");
    let by_hand = || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"fsync = off\nwork_mem = '5MB'\n").unwrap();
    };
    by_hand();
    assert_eq!(auto_conf::overrides(&member.layout).unwrap(), ["fsync"]);
    auto_conf::remove_overrides(&member.layout).unwrap();
    assert!(auto_conf::overrides(&member.layout).unwrap().is_empty());

    by_hand();
    member.stop().await;
    member.start().await;
    assert!(auto_conf::overrides(&member.layout).unwrap().is_empty(), "removed before the start");
    let setting = async |name: &str| {
        mainstay_postgres::session::fresh_setting(&member.server(), name, LONG).await.unwrap()
    };
    assert_eq!(setting("fsync").await, "on");
    assert_eq!(setting("work_mem").await, "5MB");
}

#[tokio::test]
async fn wrong_owners_and_modes_are_told_with_the_remedy() {
    let world = World::new();
    let member = world.member("m1").await;
    let port = member.settings.port;
    std::fs::set_permissions(member.layout.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = member.layout.create(port).unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
    std::fs::set_permissions(member.layout.data(), std::fs::Permissions::from_mode(0o750)).unwrap();
    member.layout.create(port).unwrap();
    if let Some(user) = member.layout.run_as() {
        std::os::unix::fs::chown(member.layout.data(), Some(0), Some(0)).unwrap();
        let error = member.layout.create(port).unwrap_err();
        assert!(error.to_string().contains(&format!("chown {} ", user.uid)), "{error}");
        let closed = world.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let layout = Layout::new(&closed.join("m"), None, None, Some(user.clone())).unwrap();
        assert!(matches!(layout.create(port), Err(LayoutError::Unreachable { .. })));
    }
    let long = Layout::new(&world.path().join("x".repeat(100)), None, None, None).unwrap();
    assert!(matches!(long.create(port), Err(LayoutError::SocketPathTooLong { .. })));
}

#[tokio::test]
async fn a_separate_wal_directory_is_used_and_cleared() {
    let world = World::new();
    let base = world.member("m1").await;
    let wal = world.path().join("wal");
    let layout = Layout::new(base.layout.root(), None, Some(&wal), base.layout.run_as().cloned()).unwrap();
    layout.create(base.settings.port).unwrap();
    let Member { id, tools, settings, .. } = base;
    let mut member = Member { id, tools, layout, settings, postmaster: None };
    member.initdb().await;
    assert_eq!(std::fs::read_link(member.layout.pg_wal()).unwrap(), wal);
    std::fs::write(wal.join("mine"), "precious").unwrap();
    let change = Change::begin(&member.tools, &member.layout, Operation::Clone, None).await.unwrap();
    let error = change.wipe().await.unwrap_err();
    assert!(matches!(error, DirectoryError::NotCleared { .. }), "{error}");
    std::fs::remove_file(wal.join("mine")).unwrap();
    change.wipe().await.unwrap();
    assert_eq!(std::fs::read_dir(&wal).unwrap().count(), 0);
}
