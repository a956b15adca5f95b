//! What one thread asks of all of them, or tells them to do.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::worker::Worker;

/// Runs on the thread of the worker that it is given.
pub(crate) type Job = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// All workers of the process, each reached by the queue of its jobs.
#[derive(Clone)]
pub(crate) struct Crew(Arc<Vec<UnboundedSender<Job>>>);

impl Crew {
    /// With the queues, one for each worker.
    pub(crate) fn new(workers: usize) -> (Crew, Vec<UnboundedReceiver<Job>>) {
        let (senders, queues) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        (Crew(Arc::new(senders)), queues)
    }

    pub(crate) fn size(&self) -> usize {
        self.0.len().max(1)
    }

    /// Asks all workers, also the one that asks. One that has ended does not answer.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let ask = |worker: &UnboundedSender<Job>| {
            let (say, answer) = oneshot::channel();
            let question = question.clone();
            let job: Job = Box::new(move |worker| drop(say.send(question(worker))));
            worker.send(job).ok().map(|()| answer)
        };
        let asked: Vec<_> = self.0.iter().filter_map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.extend(answer.await);
        }
        answers
    }

    /// Tells all workers, and waits for none.
    pub(crate) fn tell(&self, what: impl Fn(&Rc<Worker>) + Clone + Send + 'static) {
        for worker in self.0.iter() {
            let _ = worker.send(Box::new(what.clone()));
        }
    }

    pub(crate) fn tell_one(&self, index: usize, what: impl FnOnce(&Rc<Worker>) + Send + 'static) {
        if let Some(worker) = self.0.get(index) {
            let _ = worker.send(Box::new(what));
        }
    }
}

/// Does what comes for this worker, and never returns.
pub(crate) async fn attend(worker: Rc<Worker>, mut queue: UnboundedReceiver<Job>) {
    while let Some(job) = queue.recv().await {
        job(&worker);
    }
}
