//! Searching for errors: a query is read, what concerns issues goes to the store, what concerns events to the index.

mod count;
mod document;
pub mod grammar;
mod index;
mod indexer;
mod plan;
mod words;

pub use index::IndexError;
pub use indexer::ErrorIndex;
pub use plan::{FIELDS, GRAMMAR, Sought};
