//! Git forges (GitHub, GitLab, Gitea and Forgejo, Bitbucket): what they tell by webhook or when asked, and what they
//! are told about deployments.
//!
//! What lives here: signatures, payloads, polling, statuses and comments. What does not: what a push leads to; that is
//! the pipeline's.

pub mod remote;
pub mod webhook;
