//! Queries: any text is read or refused with a place that is within it.
#![no_main]

use berth_observe::errors::search::grammar::{self, Expr};

fn depth(expr: &Expr) -> usize {
    1 + match expr {
        Expr::And(parts) | Expr::Or(parts) => parts.iter().map(depth).max().unwrap_or(0),
        Expr::Not(inner) => depth(inner),
        _ => 0,
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    match grammar::parse(text) {
        Ok(expr) => assert!(depth(&expr) < 100),
        Err(error) => {
            assert!(error.at <= text.len().max(grammar::MAX_QUERY) && !error.what.is_empty());
            assert!(error.at > text.len() || text.is_char_boundary(error.at));
        }
    }
});
