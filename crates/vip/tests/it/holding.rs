//! Held, announced, let go, and taken by the kernel.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mainstay_vip::{Answer, Holder, Netlink, Order, Rule, TAG, now_ns, serve};
use socket2::{Domain, Protocol, Socket, Type};

use crate::segment::Segment;

const V4: &str = "10.98.0.9";
const V6: &str = "fd98::9";

/// A holder's process, as a thread, and the member's end of its line.
struct Member {
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Member {
    fn start(segment: &Segment, addresses: &[&str]) -> Member {
        let rules = addresses.iter().map(|address| Rule { address: ip(address), interface: None }).collect();
        let (orders, theirs) = UnixStream::pair().unwrap();
        segment.here(move || serve(Holder::new(rules).unwrap(), theirs));
        orders.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Member { answers: BufReader::new(orders.try_clone().unwrap()), orders }
    }

    fn order(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).unwrap();
        line.push(b'\n');
        self.orders.write_all(&line).unwrap();
    }

    fn hold(&mut self, epoch: u64, seconds: f64, careful: bool, address: &str) {
        let deadline_ns = now_ns() + Duration::from_secs_f64(seconds).as_nanos() as u64;
        self.order(&Order::Hold { epoch, deadline_ns, addresses: vec![ip(address)], careful });
    }

    fn wait(&mut self, what: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < Duration::from_secs(10) {
            let mut line = String::new();
            self.answers
                .read_line(&mut line)
                .unwrap_or_else(|error| panic!("{what}: {error}; last: {last:?}"));
            let answer: Answer = serde_json::from_str(&line).unwrap();
            if is_it(&answer) {
                return answer;
            }
            last = Some(answer);
        }
        panic!("not {what} within 10 s; last: {last:?}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn is_held(answer: &Answer) -> bool {
    answer.addresses.iter().any(|state| state.is_held)
}

fn until(what: &str, longest: Duration, is_it: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_it() {
        assert!(begun.elapsed() < longest, "not {what} within {longest:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

/// All frames with this Ethernet type that reach the other machine within `time`.
fn sniff(segment: &Segment, kind: u16, time: Duration) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let sniffer = segment.there(move || {
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(kind.to_be())))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(socket.as_raw_fd() > 0);
        ready.send(()).unwrap();
        let (begun, mut frames) = (Instant::now(), Vec::new());
        let mut buffer = [0; 2048];
        while begun.elapsed() < time {
            if let Ok(length) = (&socket).read(&mut buffer) {
                frames.push(buffer[..length].to_vec());
            }
        }
        frames
    });
    is_ready.recv().unwrap();
    sniffer
}

#[test]
fn an_address_is_announced_where_it_is_held_and_gone_when_it_is_released() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    let sniffer = sniff(&segment, 0x0806, Duration::from_millis(400));
    member.hold(3, 30.0, false, V4);
    let answer = member.wait("held", is_held);
    assert_eq!(answer.addresses[0].interface.as_deref(), Some("eth0"));
    let found = segment.here(|| Netlink::open().unwrap().addresses().unwrap()).join().unwrap();
    let found = found.iter().find(|found| found.address == ip(V4)).unwrap();
    assert_eq!((found.prefix, found.tag), (32, TAG));
    assert!((1..=2).contains(&found.valid_s), "{found:?}");
    // Requests and replies, at once and again after 0.1 s.
    let frames = sniffer.join().unwrap();
    let own: Vec<u8> =
        frames.iter().filter(|frame| frame[28..32] == [10, 98, 0, 9]).map(|frame| frame[21]).collect();
    assert_eq!(own, [1, 2, 1, 2]);
    let begun = Instant::now();
    member.order(&Order::Release { epoch: 3 });
    let answer = member.wait("released", |answer| answer.released == 3);
    assert!(!is_held(&answer) && !segment.has(ip(V4)));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // What comes late, of that epoch, is not carried out.
    member.hold(3, 30.0, false, V4);
    member.wait("refused", |answer| !is_held(answer));
    assert!(!segment.has(ip(V4)));
}

#[test]
fn the_other_machine_reaches_it_at_once_though_it_knew_another_place() {
    let Some(segment) = Segment::create() else { return };
    segment.ip_there(&format!("neigh replace {V4} lladdr 02:00:00:00:00:99 dev eth0 nud reachable"));
    let mut member = Member::start(&segment, &[V4]);
    member.hold(3, 30.0, false, V4);
    member.wait("held", is_held);
    let listener =
        segment.here(|| std::net::TcpListener::bind(format!("{V4}:7000")).unwrap()).join().unwrap();
    let begun = Instant::now();
    let client = segment.there(|| {
        std::net::TcpStream::connect_timeout(&format!("{V4}:7000").parse().unwrap(), Duration::from_secs(5))
    });
    client.join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    drop(listener);
}

#[test]
fn without_its_process_the_kernel_removes_it_before_the_deadline() {
    let Some(segment) = Segment::create() else { return };
    for address in [V4, V6] {
        // Held by a process that is never seen again: killed or stopped is the same to the kernel.
        let deadline_ns = segment
            .here(move || {
                let mut holder = Holder::new(vec![Rule { address: ip(address), interface: None }]).unwrap();
                let deadline_ns = now_ns() + 2_370_000_000;
                holder.take(Order::Hold {
                    epoch: 1,
                    deadline_ns,
                    addresses: vec![ip(address)],
                    careful: false,
                });
                holder.turn();
                assert!(is_held(&holder.answer()), "{:?}", holder.answer());
                deadline_ns
            })
            .join()
            .unwrap();
        assert!(segment.has(ip(address)));
        let took = until("gone", Duration::from_secs(5), || !segment.has(ip(address)));
        let left_ms = (deadline_ns as i64 - now_ns() as i64) / 1_000_000;
        // Half a second more for a machine that is busy: the kernel's work is ordinary work.
        assert!(left_ms > -500, "{address}: gone after {took:?}, {left_ms} ms before its deadline");
    }
}

#[test]
fn a_living_process_removes_it_at_its_deadline() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    member.hold(5, 2.4, false, V4);
    member.wait("held", is_held);
    member.wait("over", |answer| !is_held(answer));
    assert!(!segment.has(ip(V4)));
}

#[test]
fn renewed_for_longer_than_its_life_it_stays() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4, V6]);
    let begun = Instant::now();
    member.hold(5, 2.4, false, V6);
    member.wait("held", is_held);
    while begun.elapsed() < Duration::from_secs(4) {
        member.hold(5, 2.4, false, V6);
        std::thread::sleep(Duration::from_millis(400));
        assert!(segment.has(ip(V6)), "after {:?}", begun.elapsed());
    }
    // The process outlives its member for as long as the last order says.
    let Member { orders, answers } = member;
    drop((orders, answers));
    assert!(segment.has(ip(V6)));
    until("gone", Duration::from_secs(4), || !segment.has(ip(V6)));
}

#[test]
fn somebody_who_answers_is_given_time_and_then_not_believed() {
    let Some(segment) = Segment::create() else { return };
    for (address, prefix) in [(V4, 24), (V6, 64)] {
        segment.ip_there(&format!("addr add {address}/{prefix} dev eth0 nodad"));
        let mut member = Member::start(&segment, &[address]);
        let begun = Instant::now();
        member.hold(2, 20.0, true, address);
        let answer = member.wait("answered", |answer| answer.addresses[0].claimed_by.is_some());
        assert!(!is_held(&answer), "{answer:?}");
        member.wait("held", is_held);
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(2_900) && took < Duration::from_secs(6), "{took:?}");
        member.order(&Order::Release { epoch: 2 });
        member.wait("released", |answer| answer.released == 2);
        // One that has let it go is waited for no longer.
        segment.ip_there(&format!("addr del {address}/{prefix} dev eth0"));
        let begun = Instant::now();
        member.hold(3, 20.0, true, address);
        member.wait("held", is_held);
        assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_foreign_claim_is_answered_at_once() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    member.hold(2, 20.0, false, V4);
    member.wait("held", is_held);
    // The announcements of the beginning are over.
    std::thread::sleep(Duration::from_millis(4_700));
    let sniffer = sniff(&segment, 0x0806, Duration::from_millis(300));
    segment
        .there(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).unwrap();
            let links = nix::ifaddrs::getifaddrs().unwrap();
            let link = links
                .filter(|row| row.interface_name == "eth0")
                .find_map(|row| row.address?.as_link_addr().copied());
            nix::sys::socket::bind(socket.as_raw_fd(), &link.unwrap()).unwrap();
            let mac = link.unwrap().addr().unwrap();
            let mut frame = [[0xff; 6], mac].concat();
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend([10, 98, 0, 9, 0, 0, 0, 0, 0, 0, 10, 98, 0, 9]);
            socket.send(&frame).unwrap();
        })
        .join()
        .unwrap();
    member.wait("claimed", |answer| answer.addresses[0].claimed_by.is_some());
    let frames = sniffer.join().unwrap();
    let answers = frames.iter().filter(|frame| frame[28..32] == [10, 98, 0, 9]).count();
    assert!(answers >= 2, "{answers}");
    assert!(segment.has(ip(V4)));
}

#[test]
fn a_second_interface_in_its_network_does_not_take_it_away() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    member.hold(2, 20.0, false, V4);
    member.wait("held", is_held);
    segment.ip_here("link add other type veth peer name another");
    segment.ip_here("addr add 10.98.0.77/24 dev other");
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(segment.has(ip(V4)));
}

#[test]
fn what_another_hand_removes_comes_back_and_what_it_adds_is_not_touched() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    member.hold(2, 20.0, false, V4);
    member.wait("held", is_held);
    segment.ip_here(&format!("addr del {V4}/32 dev eth0"));
    until("back", Duration::from_secs(2), || segment.has(ip(V4)));
    member.order(&Order::Release { epoch: 2 });
    member.wait("released", |answer| answer.released == 2);
    segment.ip_here(&format!("addr add {V4}/24 dev eth0"));
    member.hold(3, 20.0, false, V4);
    let answer = member.wait("error", |answer| answer.addresses[0].error.is_some());
    assert!(!is_held(&answer), "{answer:?}");
    assert!(answer.addresses[0].error.as_ref().unwrap().contains("another hand"), "{answer:?}");
    assert!(segment.has(ip(V4)));
}

#[test]
fn only_addresses_of_the_configuration_are_held() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V4]);
    member.hold(2, 20.0, false, "10.98.0.77");
    let answer = member.wait("error", |answer| answer.error.is_some());
    assert!(answer.error.unwrap().contains("[[vip]]"));
    assert!(!segment.has(ip("10.98.0.77")));
}

#[test]
fn a_link_that_comes_back_is_announced_again() {
    let Some(segment) = Segment::create() else { return };
    let mut member = Member::start(&segment, &[V6]);
    member.hold(2, 30.0, false, V6);
    member.wait("held", is_held);
    segment.ip_here("link set eth0 down");
    // The kernel takes an interface's addresses of IPv6 with it.
    until("gone", Duration::from_secs(2), || !segment.has(ip(V6)));
    let sniffer = sniff(&segment, 0x86dd, Duration::from_millis(2_500));
    segment.ip_here("link set eth0 up");
    until("back", Duration::from_secs(3), || segment.has(ip(V6)));
    let announced = |frame: &&Vec<u8>| {
        frame.len() >= 78
            && frame[54] == 136
            && frame[62..78] == [0xfd, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]
    };
    assert!(sniffer.join().unwrap().iter().filter(announced).count() >= 1);
}
