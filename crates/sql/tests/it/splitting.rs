//! What is answered does not depend on how bytes are split into reads, and nothing that is sent harms anybody else.

use std::io::{Read, Write};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::proxy::Proxy;
use crate::wire::{Message, Wire, kinds};

/// A batch with all that the proxy changes on the way, and how many `ReadyForQuery` it has.
fn batch(client: &mut Wire) -> (Vec<u8>, usize) {
    client.simple("SELECT 'simple'; SELECT 2");
    client.parse("named", "SELECT $1::text || 'x'").describe(b'S', "named").bind("", "named", &["1"]);
    client.execute("").sync();
    client
        .parse("", "SELECT 'unnamed'")
        .bind("p", "", &[])
        .describe(b'P', "p")
        .execute("p")
        .close(b'P', "p")
        .sync();
    client.bind("", "missing", &[]).parse("skipped", "SELECT 1").close(b'S', "gone").sync();
    client.bind("", "named", &[&"y".repeat(20_000)]).execute("").sync();
    client.simple(&format!("SELECT length('{}')", "z".repeat(30_000)));
    client.close(b'S', "named").sync();
    client.simple("SET work_mem = '5MB'").simple("SHOW work_mem").simple("RESET work_mem").simple("");
    (client.take(), 11)
}

fn read_all(client: &mut Wire, ready: usize) -> Vec<Message> {
    (0..ready).flat_map(|_| client.until_ready()).collect()
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn a_stream_may_be_split_anywhere() {
    let proxy = Proxy::new();
    let mut client = proxy.client();
    let (bytes, ready) = batch(&mut client);
    client.write(&bytes).unwrap();
    let whole = read_all(&mut client, ready);
    assert_eq!(kinds(&whole), "TDCTDCZ1tT2DCZ12TDC3ZEZ2DCZTDCZ3ZCZTDCZCZIZ",);
    let cuts = proptest::collection::vec(0..bytes.len(), 0..40);
    let mut runner = TestRunner::new(config(25));
    let split = runner.run(&cuts, |mut cuts| {
        cuts.sort_unstable();
        let mut client = proxy.client();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            client.write(&bytes[from..cut]).unwrap();
            from = cut;
            // So that the kernel does not join what was split.
            std::thread::yield_now();
        }
        prop_assert_eq!(&read_all(&mut client, ready), &whole);
        Ok(())
    });
    split.unwrap();
    // One byte at a time.
    let mut client = proxy.client();
    for byte in &bytes[..2000] {
        client.write(&[*byte]).unwrap();
    }
    client.write(&bytes[2000..]).unwrap();
    assert_eq!(read_all(&mut client, ready), whole);
}

#[test]
fn random_messages_harm_nobody_else() {
    let proxy = Proxy::of_size(2);
    let other = std::cell::RefCell::new(proxy.client());
    other.borrow_mut().parse("s", "SELECT $1::text").sync().go();
    let kind = prop_oneof![proptest::sample::select(b"QPBDCEHSFdcfX".to_vec()), any::<u8>()];
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[a-z]{0,3}\0(COMMIT|ROLLBACK|SELECT 1|BEGIN|COPY x FROM STDIN|DEALLOCATE s)?\0"
            .prop_map(String::into_bytes),
    ];
    let messages = proptest::collection::vec((kind, body), 0..12);
    let mut runner = TestRunner::new(config(60));
    let harmed = runner.run(&(messages, any::<bool>()), |(messages, is_cut)| {
        let mut client = proxy.client();
        for (kind, body) in messages {
            client.message(kind, |out| out.extend_from_slice(&body));
        }
        let mut bytes = client.take();
        if is_cut {
            bytes.truncate(bytes.len().saturating_sub(3));
        }
        let _ = client.stream.write_all(&bytes);
        let socket = client.socket.take().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let _ = client.stream.read(&mut [0; 4096]);
        drop((client, socket));
        let rows = other.borrow_mut().run("s", &["well"]);
        prop_assert_eq!(rows.unwrap(), vec![vec![Some("well".to_owned())]]);
        prop_assert_eq!(other.borrow_mut().one("SELECT current_setting('work_mem')"), "4MB");
        Ok(())
    });
    harmed.unwrap();
}
