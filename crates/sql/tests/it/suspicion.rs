//! A server that says strange things, in the place of PostgreSQL.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use mainstay_pgwire::backend;
use mainstay_pgwire::frame::push;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::proxy::Proxy;
use crate::wire::Wire;

/// Lets everybody in, and answers each first query with the bytes given, in pieces.
fn strange_server(listener: &TcpListener, pieces: &[Vec<u8>]) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; u32::from_be_bytes(head) as usize - 4];
    stream.read_exact(&mut rest)?;
    let mut greeting = Vec::new();
    backend::push_authentication_ok(&mut greeting);
    backend::push_parameter_status(&mut greeting, "server_version", "15");
    backend::push_key(&mut greeting, 7, b"1234");
    backend::push_ready(&mut greeting, backend::IDLE);
    stream.write_all(&greeting)?;
    read_query(&mut stream)?;
    for piece in pieces {
        stream.set_nodelay(true)?;
        stream.write_all(piece)?;
    }
    Ok(())
}

fn read_query(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
    stream.read_exact(&mut rest)
}

/// The result of a query, with values of many lengths.
fn answer() -> Vec<u8> {
    let mut out = Vec::new();
    backend::push_columns(&mut out, &[("a", backend::ColumnType::Text)]);
    for length in [0, 1, 5_000, 64 * 1024 - 12, 64 * 1024, 200_000] {
        backend::push_row(&mut out, &[Some("r".repeat(length).as_str())]);
    }
    push(&mut out, b'N', |out| out.extend_from_slice(b"SNOTICE\0C00000\0Mhello\0\0"));
    backend::push_command_complete(&mut out, "SELECT 6");
    backend::push_ready(&mut out, backend::IDLE);
    out
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// A client of a proxy whose server answers with these pieces.
fn ask(proxy: &Proxy, pieces: Vec<Vec<u8>>) -> (Wire, std::thread::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut route = proxy.postgres.route("strange");
    route.port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || strange_server(&listener, &pieces));
    proxy.member.primary(route);
    let mut console = proxy.boss("mainstay");
    crate::postgres::wait_for("the strange server to be the primary", || {
        console.ok("SHOW ROUTES")[0][1].as_deref() == Some("strange")
    });
    let mut client = proxy.client();
    client.simple("SELECT 1").send();
    (client, server)
}

#[test]
fn an_answer_may_be_split_anywhere() {
    let proxy = Proxy::new();
    let bytes = answer();
    let mut runner = TestRunner::new(config(20));
    let cuts = proptest::collection::vec(0..bytes.len(), 0..30);
    let split = runner.run(&cuts, |mut cuts| {
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        let pieces = cuts.into_iter().map(|cut| bytes[std::mem::replace(&mut from, cut)..cut].to_vec());
        let (mut client, server) = ask(&proxy, pieces.collect());
        let mut answered = vec![0; bytes.len()];
        client.stream.read_exact(&mut answered).unwrap();
        prop_assert!(answered == bytes);
        server.join().unwrap().unwrap();
        Ok(())
    });
    split.unwrap();
}

/// Whatever a server says, its client is told something or sees the end, and the proxy lives on.
#[test]
fn a_server_that_talks_nonsense_is_left() {
    let proxy = Proxy::new();
    let kind = prop_oneof![proptest::sample::select(b"ZCETDGWHN13AS".to_vec()), any::<u8>()];
    let message = (kind, proptest::collection::vec(any::<u8>(), 0..30), any::<bool>());
    let mut runner = TestRunner::new(config(40));
    let left = runner.run(&proptest::collection::vec(message, 0..6), |messages| {
        let mut bytes = Vec::new();
        for (kind, body, is_frame) in messages {
            if is_frame {
                push(&mut bytes, kind, |out| out.extend_from_slice(&body));
            } else {
                bytes.extend_from_slice(&body);
            }
        }
        let (mut client, server) = ask(&proxy, vec![bytes]);
        drop(server.join().unwrap());
        // The strange server has gone: the next primary is PostgreSQL itself.
        proxy.member.primary(proxy.postgres.route("a"));
        let mut console = proxy.boss("mainstay");
        crate::postgres::wait_for("PostgreSQL to be the primary", || {
            console.ok("SHOW ROUTES")[0][1].as_deref() == Some("a")
        });
        client.socket.as_ref().unwrap().set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let _ = client.stream.read(&mut [0; 4096]);
        drop(client);
        prop_assert_eq!(proxy.client().one("SELECT 1"), "1");
        Ok(())
    });
    left.unwrap();
}
