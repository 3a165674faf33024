//! Names of functions as people wrote them, where a client sent what a compiler made of them: C++, Rust and Visual C++.
//! Swift's stay as they are: what reads them is C++ that would be fed by strangers.

use symbolic_common::{Language, Name, NameMangling};
use symbolic_demangle::{Demangle as _, DemangleOptions};

use super::read;

/// How names begin that a compiler made: by the Itanium rules (C++, and Rust until 2025), on Apple's systems with one more
/// line, by Rust's own rules, and by Microsoft's.
const BEGINNINGS: [&str; 5] = ["_Z", "__Z", "_R", "__R", "?"];
/// Longest name that is read so, in bytes: templates make long ones.
pub(super) const LONGEST: usize = 4000;

/// Stack for reading one. The readers bound how deep they go, but not to what a thread's own stack holds: a name of a
/// kilobyte would end the process.
const STACK: usize = 16 << 20;

/// The name as people wrote it, without parameters, at most `max` bytes of it; one that no compiler made, or that cannot
/// be read, stays as it is.
pub(super) fn readable(name: String, max: usize) -> String {
    let made = BEGINNINGS.iter().any(|begin| name.starts_with(begin)) && name.len() > 3;
    let read = made.then(|| {
        let name = Name::new(name.as_str(), NameMangling::Mangled, Language::Unknown);
        stacker::grow(STACK, || name.demangle(DemangleOptions::name_only()))
    });
    let name = read.flatten().filter(|read| !read.is_empty()).unwrap_or(name);
    if name.len() <= max { name } else { read::cut(&name, max).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compilers_made_is_read_and_the_rest_stays() {
        for (made, written) in [
            // Rust, by the older and the newer rules.
            ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
            ("__ZN4shop4cart5total17h0123456789abcdefE", "shop::cart::total"),
            (
                "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE",
                "<Test + 'static as foo::Bar<Test>>::bar",
            ),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_RNvNtCs15kBYyAo9fc_7mycrate7example3bar", "mycrate::example::bar"),
            // C++.
            ("_ZN4shop4Cart5totalERKSt6vectorIiSaIiEE", "shop::Cart::total"),
            ("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back"),
            ("_ZN12_GLOBAL__N_14failEv", "(anonymous namespace)::fail"),
            ("?total@Cart@shop@@QEAAHXZ", "shop::Cart::total"),
            // Not made, or not to be read.
            ("total", "total"),
            ("_Zap", "_Zap"),
            ("_R", "_R"),
            ("_ZN", "_ZN"),
            ("_RANDOM", "_RANDOM"),
            ("?", "?"),
            ("$s4main3fooyyF", "$s4main3fooyyF"),
            ("Cart::total<int>", "Cart::total<int>"),
        ] {
            assert_eq!(readable(made.into(), 400), written, "{made}");
        }
        assert_eq!(readable("größe".into(), 4), "grö");
    }

    #[test]
    fn hostile_names_end_soon() {
        let deep = format!("_Z1f{}i", "P".repeat(3900));
        let folded = format!("_RNvC{}3foo", "I".repeat(3900));
        let growing = format!("_Z1fI{}E", "St4pairIS_S0_E".repeat(250));
        let negated = format!("_Z1fIX{}Li1EEE", "ng".repeat(1900));
        for name in [deep, folded, negated, growing, "?".repeat(4000), "_Z\u{0}".into()] {
            assert!(readable(name, 400).len() <= 400);
        }
    }
}
