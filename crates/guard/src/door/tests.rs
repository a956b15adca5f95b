use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that goes when the test does.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mainstay-door-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open() -> (Directory, PathBuf, Door) {
    let directory = Directory::new();
    let path = directory.0.join("guard.sock");
    let door = Door::open(&path).unwrap();
    (directory, path, door)
}

fn connect(door: &mut Door, path: &Path) -> (ConnectionId, UnixStream) {
    let stream = UnixStream::connect(path).unwrap();
    door.accept(1);
    (door.next_id - 1, stream)
}

fn line(stream: &UnixStream) -> Message {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let (_directory, path, _door) = open();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn lines_come_whole_and_in_order_however_they_are_cut() {
    let (_directory, path, mut door) = open();
    let (id, mut stream) = connect(&mut door, &path);
    stream.write_all(b"first\nsec").unwrap();
    assert_eq!(door.receive(), [(id, b"first".to_vec())]);
    assert_eq!(door.receive(), []);
    stream.write_all(b"ond\n\nfourth\n").unwrap();
    assert_eq!(door.receive(), [(id, b"second".to_vec()), (id, Vec::new()), (id, b"fourth".to_vec())]);
}

#[test]
fn an_endless_line_ends_the_connection() {
    let (_directory, path, mut door) = open();
    let (id, mut stream) = connect(&mut door, &path);
    stream.set_nonblocking(true).unwrap();
    let block = [b'x'; 4096];
    while door.is_open(id) {
        let _ = stream.write(&block);
        assert_eq!(door.receive(), []);
        assert!(door.connections[0].unread.len() <= LONGEST_LINE + block.len());
    }
    door.tidy();
    assert!(door.connections.is_empty());
}

#[test]
fn a_stuck_reader_is_dropped_and_never_waited_for() {
    let (_directory, path, mut door) = open();
    let (id, _stream) = connect(&mut door, &path);
    door.greet(id, 1, Role::Control).unwrap();
    let mut sent = 0_u32;
    while door.is_open(id) {
        door.broadcast(&Event::Superseded { generation: u64::MAX });
        sent += 1;
        assert!(sent < 1_000_000, "the guard would fill its memory");
    }
    assert!(door.tidy());
    assert_eq!(door.member_count(), 0);
}

#[test]
fn the_newest_generation_supersedes_and_an_older_one_is_refused() {
    let (_directory, path, mut door) = open();
    let (old, old_stream) = connect(&mut door, &path);
    let (old_arm, old_arm_stream) = connect(&mut door, &path);
    door.greet(old, 7, Role::Control).unwrap();
    door.greet(old_arm, 7, Role::Arm).unwrap();
    assert_eq!(door.greet(old, 7, Role::Control), Err(Refusal::Greeting));

    let (new, _new_stream) = connect(&mut door, &path);
    door.greet(new, 8, Role::Control).unwrap();
    for stream in [&old_stream, &old_arm_stream] {
        assert!(matches!(line(stream), Message::Event(Event::Superseded { generation: 8 })));
    }
    assert!(!door.is_open(old) && !door.is_open(old_arm) && door.is_open(new));

    let (late, _late_stream) = connect(&mut door, &path);
    assert_eq!(door.greet(late, 7, Role::Control), Err(Refusal::OlderGeneration { asked: 7, newest: 8 }));
    assert_eq!(door.role(late), None);
    assert!(door.is_open(new));
}

#[test]
fn a_new_member_gets_in_however_many_connections_there_are() {
    let (_directory, path, mut door) = open();
    let (first, _first_stream) = connect(&mut door, &path);
    door.greet(first, 1, Role::Control).unwrap();
    let mut streams = Vec::new();
    for _ in 0..2 * MOST_CONNECTIONS {
        streams.push(connect(&mut door, &path));
    }
    assert_eq!(door.connections.len(), MOST_CONNECTIONS);
    // Those who never said who they are go first.
    assert!(door.is_open(first));
    assert!(door.is_open(streams.last().unwrap().0));
}
