//! All SQL of Berth.
//!
//! One repository per table group; SQL in the subset that SQLite and PostgreSQL share; secrets sealed here
//! and opened only by the calls that say so. What does not live here: decisions about deployments, Docker.

pub mod model;
