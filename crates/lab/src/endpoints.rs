//! What a load balancer sees: every data member is asked for `/primary`, as HAProxy's health check asks, only more often.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_core::Now;

use crate::clock;
use crate::files::HTTP_PORT;
use crate::member::Member;

const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);

/// One question and its answer: it was true at some moment between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub begun: Now,
    pub ended: Now,
    /// `None`: no answer.
    pub code: Option<u16>,
}

/// The samples of one member, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    pub member: String,
    pub samples: Vec<Sample>,
}

/// A thread for each member; they end when this is dropped.
#[derive(Debug)]
pub struct Endpoints {
    stop: Arc<AtomicBool>,
    watched: Vec<(Arc<Mutex<Series>>, JoinHandle<()>)>,
}

impl Endpoints {
    pub fn watch<'a>(members: impl Iterator<Item = &'a Member>) -> Result<Endpoints> {
        let mut endpoints = Endpoints { stop: Arc::default(), watched: Vec::new() };
        for member in members {
            let address = SocketAddr::from((member.site.address, HTTP_PORT));
            let empty = Series { member: member.name().to_owned(), samples: Vec::new() };
            let series = Arc::new(Mutex::new(empty));
            let (stop, slot) = (Arc::clone(&endpoints.stop), Arc::clone(&series));
            let thread = std::thread::Builder::new().name("balancer".to_owned()).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = clock::now();
                    let code = ask(address).ok();
                    let sample = Sample { begun, ended: clock::now(), code };
                    slot.lock().unwrap_or_else(PoisonError::into_inner).samples.push(sample);
                    std::thread::sleep(INTERVAL);
                }
            })?;
            endpoints.watched.push((series, thread));
        }
        Ok(endpoints)
    }

    pub fn series(&self) -> Vec<Series> {
        let copy = |series: &Mutex<Series>| series.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.watched.iter().map(|(series, _)| copy(series)).collect()
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.watched.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ask(address: SocketAddr) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "OPTIONS /primary HTTP/1.0\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let code = std::str::from_utf8(&head[9..])?.parse();
    code.context("no status line")
}

/// What the samples say of a change from `old` to another member: when the old one first denied it, and when another first said that
/// it is the primary. An error if two said so, or may have, at the same time.
pub fn handover(all: &[Series], old: &str) -> Result<(Now, Now), String> {
    let says = |series: &Series| {
        series.samples.iter().filter(|sample| sample.code == Some(200)).cloned().collect::<Vec<_>>()
    };
    let is_old = |series: &&Series| series.member == old;
    let before = all.iter().find(is_old).ok_or_else(|| format!("{old} was not asked"))?;
    let last =
        says(before).last().cloned().ok_or_else(|| format!("{old} never said that it is the primary"))?;
    let others = all.iter().filter(|series| !is_old(series));
    let firsts: Vec<(&str, Sample)> =
        others.filter_map(|series| Some((series.member.as_str(), says(series).first()?.clone()))).collect();
    let [(new, first)] = firsts.as_slice() else {
        return Err(format!("one other member is to say that it is the primary; these did: {firsts:?}"));
    };
    if first.begun <= last.ended {
        return Err(format!("{old} said that it is the primary at {last:?}, and {new} at {first:?}"));
    }
    let denied = before.samples.iter().find(|sample| sample.begun > last.ended && sample.code == Some(503));
    match denied {
        Some(denied) if denied.ended < first.begun => Ok((denied.ended, first.begun)),
        _ => Err(format!("{old} has not answered 503 before {new} answered 200")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(member: &str, samples: &[(u64, u64, u16)]) -> Series {
        let sample = |(begun, ended, code): &(u64, u64, u16)| Sample {
            begun: Now(*begun),
            ended: Now(*ended),
            code: (*code != 0).then_some(*code),
        };
        Series { member: member.to_owned(), samples: samples.iter().map(sample).collect() }
    }

    #[test]
    fn two_who_say_so_at_once_are_noticed() {
        let old = series("m1", &[(1, 2, 200), (3, 4, 200), (5, 6, 503), (7, 8, 0)]);
        let of = |old: &Series, new: &[(u64, u64, u16)]| handover(&[old.clone(), series("m2", new)], "m1");
        assert_eq!(of(&old, &[(1, 2, 503), (9, 10, 200)]), Ok((Now(6), Now(9))));
        assert!(of(&old, &[(4, 9, 200)]).unwrap_err().contains("at Sample"), "they may have overlapped");
        assert!(of(&old, &[(5, 6, 200)]).unwrap_err().contains("has not answered 503"));
        assert!(of(&old, &[(9, 10, 503)]).unwrap_err().contains("one other member"));
        let silent = series("m1", &[(1, 2, 200), (3, 4, 0)]);
        assert!(of(&silent, &[(9, 10, 200)]).is_err(), "silence is no denial");
    }
}
