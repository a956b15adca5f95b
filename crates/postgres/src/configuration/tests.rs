use super::*;
use std::path::Path;

const VERSION: Version = Version { major: 15, minor: 18 };

fn settings(parameters: &[(&str, &str)]) -> ServerSettings {
    ServerSettings {
        port: 5432,
        listen_addresses: vec!["10.0.0.1".to_owned(), "::1".to_owned()],
        tls: true,
        synchronous_standby_names: String::new(),
        upstream: None,
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn rendered(parameters: &[(&str, &str)]) -> Result<String, ConfigurationError> {
    let layout = Layout::new(Path::new("/m"), None, None, None).unwrap();
    render(&layout, VERSION, &settings(parameters))
}

#[test]
fn names_are_quoted_and_lone_mode_is_empty() {
    let voters = ["ms_m2_1a2b3c4d".to_owned(), "ms_m3_00000001".to_owned()];
    assert_eq!(names(1, &voters), "ANY 1 (\"ms_m2_1a2b3c4d\",\"ms_m3_00000001\")");
    assert_eq!(names(0, &voters), "");
}

#[test]
fn values_are_escaped() {
    let text = rendered(&[("search_path", "it's \\ \"x\"")]).unwrap();
    assert!(text.contains("search_path = 'it''s \\\\ \"x\"'\n"), "{text}");
    assert!(text.contains("listen_addresses = '10.0.0.1,::1'\n"));
    let injected = rendered(&[("search_path", "x'\nfsync = off")]).unwrap_err();
    assert!(matches!(injected, ConfigurationError::ControlCharacter { .. }), "{injected}");
}

#[test]
fn protected_parameters_are_refused_with_the_reason_in_any_spelling() {
    for name in
        ["fsync", "FSync", "primary_conninfo", "include", "Include_Dir", "max_standby_streaming_delay"]
    {
        let error = rendered(&[(name, "off")]).unwrap_err();
        let ConfigurationError::Protected { reason, .. } = error else { panic!("{name}: {error}") };
        assert!(!reason.is_empty());
    }
    for name in ["fsync = off\nx", "a b", "", "1x", "a.b.c", "a.", "x'"] {
        assert!(matches!(rendered(&[(name, "1")]), Err(ConfigurationError::Name { .. })), "{name:?}");
    }
    assert!(rendered(&[("auto_explain.log_min_duration", "1s")]).is_ok());
}

#[test]
fn values_that_weaken_the_guarantees_are_refused() {
    for (name, value) in [("synchronous_commit", "off"), ("wal_level", "minimal"), ("max_wal_senders", "3")] {
        let error = rendered(&[(name, value)]).unwrap_err();
        assert!(matches!(error, ConfigurationError::Value { .. }), "{name}: {error}");
    }
    assert!(rendered(&[("synchronous_commit", "remote_apply"), ("wal_level", "logical")]).is_ok());
    let twice = rendered(&[("Work_Mem", "1MB"), ("work_mem", "2MB")]).unwrap_err();
    assert!(matches!(twice, ConfigurationError::Duplicate { .. }), "{twice}");
}

#[test]
fn the_operators_value_replaces_a_default_and_newer_parameters_wait_for_their_version() {
    let text = rendered(&[("max_connections", "321")]).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("max_connections")).count(), 1, "{text}");
    assert!(text.contains("max_connections = '321'"));
    assert!(!text.contains("allow_alter_system"));
    let layout = Layout::new(Path::new("/m"), None, None, None).unwrap();
    let newer = render(&layout, Version { major: 18, minor: 0 }, &settings(&[])).unwrap();
    assert!(
        newer.contains("allow_alter_system = 'off'") && newer.contains("idle_replication_slot_timeout = '0'")
    );
}

#[test]
fn every_name_is_written_once() {
    let text = rendered(&[("work_mem", "8MB")]).unwrap();
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "{text}");
}
