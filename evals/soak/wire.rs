//! What the load and the app it is aimed at agree on.

/// Request header with the id of a request.
pub(crate) const ID: &str = "x-soak-id";
/// Response header with the version of the app and the one container that answered: `a/4f2c`.
pub(crate) const RELEASE: &str = "x-soak-release";
/// Response header with the address where that container tells which POSTs it has seen.
pub(crate) const LEDGER: &str = "x-soak-ledger";

/// Last line of a slow response.
pub(crate) const SLOW_END: &str = "end\n";

/// Bytes that follow from an id, so that both sides know what a body must be.
pub(crate) fn fill(id: &str, len: usize) -> Vec<u8> {
    // FNV-1a for the seed, xorshift from there: different for each id, and a shifted or repeated part shows.
    let mut state =
        id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
