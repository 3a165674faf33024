//! Where an app's source comes from, and how it gets safely onto the disk.
//!
//! Three ways in: an uploaded archive ([`archive`]), a few files sent inline ([`files`]), a git repository
//! ([`git`]). All end as a fresh directory of which later stages may trust this: every name is plain, nothing
//! is a device, and no link leads out of it. [`ignore`] is the way back: it packs a directory for upload or as
//! build context. [`guard`] decides which hosts a user may make the daemon talk to.
//!
//! Not here: the store, Docker, and the pipeline that decides when to fetch what.

pub mod archive;
mod confined;
pub mod files;
pub mod git;
pub mod guard;
pub mod ignore;
mod ignore_rules;
pub mod lfs;
pub mod limits;
pub mod path;

pub use confined::{ExtractReport, hash_directory};
pub use limits::{ArchiveError, Limits};
pub use path::{PathFault, TreePath};
