//! A bounded number of places for those who wait.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One place of those that a counter gives out; given back when dropped, however the waiting ended.
pub(crate) struct Place<'c>(&'c AtomicUsize);

impl<'c> Place<'c> {
    /// A place, and how many were taken before it; none when `most` are.
    pub(crate) fn take(taken: &'c AtomicUsize, most: usize) -> Option<(Self, usize)> {
        let place = Self(taken);
        let before = taken.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some((place, before))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
