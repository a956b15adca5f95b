//! Which messages arrive, and when.
//!
//! Nodes are the machines, then the hosts of the clients. Everything between members is a datagram here: it may be lost,
//! late, doubled or overtaken, which is harsher than the links that are shipped.

use crate::queue::{MICROSECOND, MS, Time};
use crate::random::Random;

/// How well the network works where it works at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weather {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    /// Of messages that are overtaken by later ones.
    pub(crate) late: f64,
}

impl Weather {
    pub(crate) const FAIR: Weather = Weather { loss: 0.0, duplicate: 0.0, late: 0.0 };
}

pub(crate) struct Network {
    nodes: usize,
    /// By sender and receiver.
    cut: Vec<bool>,
    pub(crate) weather: Weather,
    /// By sender and receiver: how much longer WAL takes, where there is much of it and little bandwidth.
    wal_delay: Vec<Time>,
    /// The same, as a fault.
    wal_lag: Vec<Time>,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Network {
        Network {
            nodes,
            cut: vec![false; nodes * nodes],
            weather: Weather::FAIR,
            wal_delay: vec![0; nodes * nodes],
            wal_lag: vec![0; nodes * nodes],
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether packets from `from` reach `to`.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut[from * self.nodes + to]
    }

    /// Whether a connection between the two works.
    pub(crate) fn connects(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut[from * self.nodes + to] = true;
    }

    pub(crate) fn heal(&mut self, from: usize, to: usize) {
        self.cut[from * self.nodes + to] = false;
    }

    pub(crate) fn heal_all(&mut self) {
        self.cut.fill(false);
        self.wal_lag.fill(0);
        self.weather = Weather::FAIR;
    }

    /// How long a packet takes.
    pub(crate) fn delay(&self, random: &mut Random, from: usize, to: usize) -> Time {
        if from == to {
            return random.between(20 * MICROSECOND, 200 * MICROSECOND);
        }
        let usual = random.between(150 * MICROSECOND, 1_500 * MICROSECOND);
        if random.chance(self.weather.late) { usual + random.span_ms(2, 600) } else { usual }
    }

    pub(crate) fn slow_wal(&mut self, from: usize, to: usize, delay: Time) {
        self.wal_delay[from * self.nodes + to] = delay;
    }

    /// WAL piles up between the two, or has stopped doing so.
    pub(crate) fn lag_wal(&mut self, from: usize, to: usize, lag: Time) {
        self.wal_lag[from * self.nodes + to] = lag;
    }

    /// How long a piece of WAL takes.
    pub(crate) fn wal_delay(&self, random: &mut Random, from: usize, to: usize) -> Time {
        let link = from * self.nodes + to;
        self.delay(random, from, to) + self.wal_delay[link] + self.wal_lag[link]
    }

    /// After which delays a datagram arrives: never, once or twice.
    pub(crate) fn arrivals(&self, random: &mut Random, from: usize, to: usize) -> [Option<Time>; 2] {
        if !self.passes(from, to) || (from != to && random.chance(self.weather.loss)) {
            return [None, None];
        }
        let first = self.delay(random, from, to);
        let doubled = from != to && random.chance(self.weather.duplicate);
        let second = doubled.then(|| first + random.between(0, 50 * MS));
        [Some(first), second]
    }
}
