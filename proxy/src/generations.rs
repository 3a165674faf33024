//! A map of bounded size that forgets what was not touched for longest, roughly, and never sweeps.
//!
//! Entries live in two generations. When the younger is full it becomes the older, and what was the older is
//! forgotten: so an entry is forgotten only after as many others as a generation holds were set.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Entries of one generation.
    size: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// Keeps at least the `size` entries that were set last, and at most twice as many.
    pub(crate) fn new(size: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), size }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn set(&mut self, key: K, value: V) {
        if self.young.len() >= self.size && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
