//! A breadth-first explorer: every state that a model can reach, once; the first violation with the shortest way to it.
//!
//! States are remembered by a 128-bit hash only, so that millions fit into memory: among 10⁷ states two share a hash
//! with probability 10⁻²⁵. The order of exploration is that of the model's successors, hence the same in every run.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Display};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

/// A finite transition system with invariants.
pub trait Model {
    type State: Clone + Hash;
    /// What leads from one state to the next.
    type Step;

    fn initial(&mut self) -> Vec<Self::State>;

    /// Appends everything that can happen next.
    fn successors(&mut self, state: &Self::State, into: &mut Vec<Successor<Self::State, Self::Step>>);

    /// What a state is remembered by; the same for states that cannot be told apart by what follows.
    fn hash(&mut self, state: &Self::State) -> u128 {
        fingerprint(state)
    }

    /// What is wrong with the state itself.
    fn violation(&mut self, state: &Self::State) -> Option<Violation>;

    /// For the check that there is no dead end: what must be reachable, and from where.
    fn outlook(&mut self, _state: &Self::State) -> Outlook {
        Outlook::Indifferent
    }

    /// One line on the step, and one on the state, for traces.
    fn name(&self, step: &Self::Step) -> String;
    fn describe(&self, state: &Self::State) -> String;
}

/// One thing that can happen next.
pub struct Successor<S, T> {
    pub step: T,
    pub state: S,
    /// Whether it happens by itself, with no further fault and no help from outside.
    pub progress: bool,
    /// What is wrong with taking this step, if anything.
    pub violation: Option<Violation>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl Violation {
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Violation {
        Violation { invariant, detail: detail.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// What must be reachable.
    Goal,
    /// A goal must be reachable from here by progress alone.
    MustReachGoal,
    Indifferent,
}

/// What an exploration found.
pub struct Report {
    pub states: usize,
    pub transitions: usize,
    /// How many steps the farthest state is away.
    pub depth: u32,
    pub elapsed: Duration,
    pub violation: Option<Violation>,
    /// The way to the violation, or to where the exploration was given up; one line per step.
    pub trace: Vec<String>,
    /// Whether every reachable state was seen.
    pub complete: bool,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { states, transitions, depth, .. } = self;
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{states} states, {transitions} transitions, depth {depth}, {seconds:.1} s")?;
        if !self.complete {
            write!(f, ", not exhausted")?;
        }
        if let Some(violation) = &self.violation {
            write!(f, "; {}: {}", violation.invariant, violation.detail)?;
        }
        self.trace.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Explores everything that `model` can reach, at most `limit` states.
pub fn explore<M: Model>(model: &mut M, limit: usize) -> Report {
    Exploration::new(model, limit).run()
}

/// Never a state's number.
const NONE: u32 = u32::MAX;

struct Exploration<'a, M: Model> {
    model: &'a mut M,
    limit: usize,
    started: Instant,
    seen: HashMap<u128, u32, BuildHasherDefault<Plain>>,
    hashes: Vec<u128>,
    parents: Vec<u32>,
    outlooks: Vec<Outlook>,
    /// Steps of progress, as (to, from).
    progress: Vec<(u32, u32)>,
    frontier: VecDeque<(M::State, u32, u32)>,
    transitions: usize,
    depth: u32,
}

impl<'a, M: Model> Exploration<'a, M> {
    fn new(model: &'a mut M, limit: usize) -> Exploration<'a, M> {
        Exploration {
            model,
            limit,
            started: Instant::now(),
            seen: HashMap::default(),
            hashes: Vec::new(),
            parents: Vec::new(),
            outlooks: Vec::new(),
            progress: Vec::new(),
            frontier: VecDeque::new(),
            transitions: 0,
            depth: 0,
        }
    }

    fn run(mut self) -> Report {
        for state in self.model.initial() {
            let (number, _) = self.visit(state, NONE, 0);
            if let Some(violation) = self.wrong(number) {
                return self.report(Some(violation), number, None);
            }
        }
        let mut successors = Vec::new();
        while let Some((state, number, depth)) = self.frontier.pop_front() {
            if self.hashes.len() > self.limit {
                return Report { complete: false, ..self.report(None, number, None) };
            }
            self.depth = depth;
            self.model.successors(&state, &mut successors);
            for Successor { step, state, progress, violation } in successors.drain(..) {
                self.transitions += 1;
                if violation.is_some() {
                    let last = format!("{}  =>  {}", self.model.name(&step), self.model.describe(&state));
                    return self.report(violation, number, Some(last));
                }
                let (next, new) = self.visit(state, number, depth + 1);
                if progress && next != number {
                    self.progress.push((next, number));
                }
                if new && let Some(violation) = self.wrong(next) {
                    return self.report(Some(violation), next, None);
                }
            }
        }
        match self.dead_end() {
            None => self.report(None, NONE, None),
            Some(number) => {
                let violation = Violation::new(
                    "no_dead_end",
                    "nothing that happens by itself leads from here to where it should",
                );
                let way_on = self.farthest_progress(number);
                self.report_with(Some(violation), number, way_on, None)
            }
        }
    }

    fn visit(&mut self, state: M::State, parent: u32, depth: u32) -> (u32, bool) {
        let hash = self.model.hash(&state);
        let next = u32::try_from(self.hashes.len()).unwrap_or(NONE);
        let number = *self.seen.entry(hash).or_insert(next);
        if number == next {
            self.hashes.push(hash);
            self.parents.push(parent);
            self.outlooks.push(self.model.outlook(&state));
            self.frontier.push_back((state, number, depth));
        }
        (number, number == next)
    }

    /// The newest state is at the back of the frontier.
    fn wrong(&mut self, number: u32) -> Option<Violation> {
        let (state, newest, _) = self.frontier.back()?;
        debug_assert_eq!(*newest, number);
        self.model.violation(state)
    }

    /// The first state from which a goal must be reachable and is not.
    fn dead_end(&self) -> Option<u32> {
        let total = self.outlooks.len();
        let mut edges = self.progress.clone();
        edges.sort_unstable();
        let mut alive = vec![false; total];
        let mut queue: Vec<u32> = Vec::new();
        for (number, outlook) in (0u32..).zip(&self.outlooks) {
            if *outlook == Outlook::Goal {
                alive[number as usize] = true;
                queue.push(number);
            }
        }
        while let Some(to) = queue.pop() {
            let first = edges.partition_point(|edge| edge.0 < to);
            for (_, from) in edges[first..].iter().take_while(|edge| edge.0 == to) {
                if !alive[*from as usize] {
                    alive[*from as usize] = true;
                    queue.push(*from);
                }
            }
        }
        let stuck = |(number, outlook): &(u32, &Outlook)| {
            **outlook == Outlook::MustReachGoal && !alive[*number as usize]
        };
        (0u32..).zip(&self.outlooks).find(stuck).map(|(number, _)| number)
    }

    /// Where progress leads from a dead end, as far as it goes.
    fn farthest_progress(&self, number: u32) -> Vec<u32> {
        let mut came_from: HashMap<u32, u32> = HashMap::from([(number, NONE)]);
        let mut queue = VecDeque::from([number]);
        let mut last = number;
        let mut forward: HashMap<u32, Vec<u32>> = HashMap::new();
        for (to, from) in &self.progress {
            forward.entry(*from).or_default().push(*to);
        }
        while let Some(at) = queue.pop_front() {
            last = at;
            for to in forward.get(&at).into_iter().flatten() {
                came_from.entry(*to).or_insert_with(|| {
                    queue.push_back(*to);
                    at
                });
            }
        }
        let mut way = Vec::new();
        while last != number && last != NONE {
            way.push(last);
            last = came_from[&last];
        }
        way.reverse();
        way
    }

    fn report(self, violation: Option<Violation>, number: u32, last: Option<String>) -> Report {
        self.report_with(violation, number, Vec::new(), last)
    }

    fn report_with(
        self,
        violation: Option<Violation>,
        number: u32,
        way_on: Vec<u32>,
        last: Option<String>,
    ) -> Report {
        let mut chain = Vec::new();
        let mut at = number;
        while at != NONE {
            chain.push(self.hashes[at as usize]);
            at = self.parents[at as usize];
        }
        chain.reverse();
        chain.extend(way_on.into_iter().map(|number| self.hashes[number as usize]));
        let mut trace = replay(self.model, &chain);
        trace.extend(last);
        Report {
            states: self.hashes.len(),
            transitions: self.transitions,
            depth: self.depth,
            elapsed: self.started.elapsed(),
            violation,
            trace,
            complete: true,
        }
    }
}

/// Only hashes were kept: the way is walked again.
fn replay<M: Model>(model: &mut M, chain: &[u128]) -> Vec<String> {
    let Some((first, rest)) = chain.split_first() else { return Vec::new() };
    let Some(mut state) = model.initial().into_iter().find(|state| model.hash(state) == *first) else {
        return Vec::new();
    };
    let mut lines = vec![model.describe(&state)];
    let mut successors = Vec::new();
    for hash in rest {
        model.successors(&state, &mut successors);
        let Some(next) = successors.drain(..).find(|next| model.hash(&next.state) == *hash) else { break };
        state = next.state;
        lines.push(format!("{}  =>  {}", model.name(&next.step), model.describe(&state)));
    }
    lines
}

pub(crate) fn fingerprint<S: Hash>(state: &S) -> u128 {
    let mut halves = Halves(0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F);
    state.hash(&mut halves);
    halves.wide()
}

/// Two independent multiply-and-fold hashes side by side; fast, and the same in every run.
struct Halves(u64, u64);

fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let halves = (product as u64, (product >> 64) as u64);
    halves.0 ^ halves.1
}

impl Halves {
    fn wide(&self) -> u128 {
        let left = fold(self.0 ^ 0x1656_67B1_9E37_79F9, 0xFF51_AFD7_ED55_8CCD);
        let right = fold(self.1 ^ 0x27D4_EB2F_1656_67C5, 0xC4CE_B9FE_1A85_EC53);
        (u128::from(left) << 64) | u128::from(right)
    }
}

impl Hasher for Halves {
    fn finish(&self) -> u64 {
        fold(self.0, self.1)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, 0x9E37_79B9_7F4A_7C15).rotate_left(23);
        self.1 = fold(self.1.wrapping_add(word), 0xD6E8_FEB8_6659_FD93) ^ word.rotate_left(32);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// The keys are hashes already.
#[derive(Default)]
pub(crate) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(8) {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "half of a good hash is a good hash")]
        let low = hash as u64;
        self.0 = low;
    }
}

#[cfg(test)]
mod tests;
