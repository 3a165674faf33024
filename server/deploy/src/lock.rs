//! Locking what a panic cannot leave half changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not somebody panicked inside: every change in here is one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
