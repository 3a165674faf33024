//! Who may touch what, and who works on it: gates that one passes at a time, and turns that are taken once however
//! often they are asked for. Nothing here knows what it guards.
//!
//! Two kinds of gates exist, always passed in this order: that of an environment, for whoever changes what serves
//! there, and that of a release, for whoever starts, stops or removes its containers. Waiting for the second while
//! holding the first is fine, never the other way round.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedMutexGuard, watch};

use crate::lock::lock;

/// Gates nobody is at are forgotten when there are more than this.
const KEEP: usize = 64;

/// One gate per key.
pub(crate) struct Gates<K>(Mutex<HashMap<K, Arc<Gate>>>);

/// A gate: one is inside at a time.
pub(crate) struct Gate {
    inside: Arc<tokio::sync::Mutex<()>>,
    /// How many wait outside and do not like to.
    waiting: watch::Sender<usize>,
}

/// Being inside; ends when dropped.
pub(crate) type Inside = OwnedMutexGuard<()>;

impl<K> Default for Gates<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Gates<K> {
    /// The gate of a key.
    pub(crate) fn of(&self, key: K) -> Arc<Gate> {
        let mut gates = lock(&self.0);
        if gates.len() > KEEP {
            // Whoever is inside or waits holds a clone.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1 || Arc::strong_count(&gate.inside) > 1);
        }
        let new = || Arc::new(Gate { inside: Arc::default(), waiting: watch::Sender::new(0) });
        Arc::clone(gates.entry(key).or_insert_with(new))
    }

    /// Passes the gate of a key.
    pub(crate) async fn enter(&self, key: K) -> Inside {
        self.of(key).enter().await
    }
}

impl Gate {
    /// Waits to be let in; who is inside and can wait is asked to leave.
    pub(crate) async fn enter(&self) -> Inside {
        let _waiting = Waiting::at(self);
        Arc::clone(&self.inside).lock_owned().await
    }

    /// Waits to be let in without hurrying who is inside.
    pub(crate) async fn enter_patiently(&self) -> Inside {
        Arc::clone(&self.inside).lock_owned().await
    }

    /// Resolves when somebody outside is in a hurry.
    pub(crate) async fn wanted(&self) {
        // The sender lives as long as this gate, so that this does not fail.
        let _ = self.waiting.subscribe().wait_for(|n| *n > 0).await;
    }
}

struct Waiting<'a>(&'a Gate);

impl<'a> Waiting<'a> {
    fn at(gate: &'a Gate) -> Self {
        gate.waiting.send_modify(|n| *n += 1);
        Self(gate)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|n| *n -= 1);
    }
}

/// Work that is done by one at a time per key: who asks while it is being done has it done once more.
pub(crate) struct Turns<K>(Arc<Mutex<HashMap<K, bool>>>);

/// The right and the duty to do the work of a key.
pub(crate) struct Turn<K: Eq + Hash> {
    turns: Arc<Mutex<HashMap<K, bool>>>,
    /// None once it has ended.
    key: Option<K>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Asks for the work of a key. None when somebody is at it, who will then do it once more.
    pub(crate) fn take(&self, key: K) -> Option<Turn<K>> {
        let mut turns = lock(&self.0);
        if let Some(again) = turns.get_mut(&key) {
            *again = true;
            return None;
        }
        turns.insert(key.clone(), false);
        Some(Turn { turns: Arc::clone(&self.0), key: Some(key) })
    }
}

impl<K: Eq + Hash> Turn<K> {
    /// Ends the turn, unless somebody asked for the work meanwhile. Returns whether it has ended.
    pub(crate) fn end(&mut self) -> bool {
        let Some(key) = &self.key else { return true };
        let mut turns = lock(&self.turns);
        match turns.get_mut(key) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                turns.remove(key);
                drop(turns);
                self.key = None;
                true
            }
        }
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    /// Whatever ended the work, even a panic: the next who asks may do it.
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.turns).remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_is_inside_and_learns_that_another_hurries() {
        let gates = Gates::<i64>::default();
        let inside = gates.enter(1).await;
        let _other = gates.enter(2).await;
        let gate = gates.of(1);
        let hurried = tokio::time::timeout(Duration::from_millis(20), gate.wanted()).await;
        assert!(hurried.is_err(), "nobody waits yet");
        let patient = tokio::spawn({
            let gate = gates.of(1);
            async move { gate.enter_patiently().await }
        });
        let hurried = tokio::time::timeout(Duration::from_millis(20), gate.wanted()).await;
        assert!(hurried.is_err(), "the patient one does not count");
        patient.abort();
        let next = tokio::spawn({
            let gate = gates.of(1);
            async move { gate.enter().await }
        });
        tokio::time::timeout(Duration::from_secs(5), gate.wanted()).await.unwrap();
        drop(inside);
        let _inside = next.await.unwrap();
    }

    #[tokio::test]
    async fn a_gate_that_somebody_is_in_is_not_forgotten() {
        let gates = Gates::<i64>::default();
        let _inside = gates.enter(0).await;
        for key in 1..200 {
            drop(gates.enter(key).await);
        }
        let again = tokio::time::timeout(Duration::from_millis(20), gates.enter(0)).await;
        assert!(again.is_err(), "two were let in");
        assert!(lock(&gates.0).len() < 100);
    }

    #[test]
    fn work_that_is_asked_for_while_it_is_done_is_done_once_more() {
        let turns = Turns::<i64>::default();
        let mut first = turns.take(1).unwrap();
        assert!(turns.take(1).is_none());
        assert!(turns.take(1).is_none());
        assert!(!first.end(), "it was asked for");
        assert!(first.end(), "but twice is once");
        let second = turns.take(1).unwrap();
        drop(first);
        assert!(turns.take(1).is_none(), "the first one's end took the second one's turn");
        drop(second);
        assert!(turns.take(1).is_some(), "a turn that broke off blocks nobody");
    }
}
