//! Addresses and networks, of IPv4 and IPv6.

use std::{net::IpAddr, str::FromStr};

/// A list of networks; a single address is a network of its full width.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IpList(Vec<(IpAddr, u8)>);

impl IpList {
    /// Reads addresses and networks (`10.0.0.1`, `10.0.0.0/8`, `fd00::/8`); names the first that is neither.
    pub(crate) fn parse<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        networks.into_iter().map(|text| network(text.trim()).ok_or(text)).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in any of the networks. An IPv4 address in IPv6 form is taken for what it is.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|(network, bits)| match (network, ip) {
            (IpAddr::V4(n), IpAddr::V4(ip)) => same_bits(n.to_bits().into(), ip.to_bits().into(), 32, *bits),
            (IpAddr::V6(n), IpAddr::V6(ip)) => same_bits(n.to_bits(), ip.to_bits(), 128, *bits),
            _ => false,
        })
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, bits) = match text.split_once('/') {
        Some((addr, bits)) => (addr, Some(bits)),
        None => (text, None),
    };
    let addr = IpAddr::from_str(addr).ok()?;
    let widest: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => widest,
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= widest)?,
    };
    // A mapped address would never be met: those that come are canonical.
    match (addr, addr.to_canonical()) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => Some((v4, bits.checked_sub(96)?)),
        _ => Some((addr, bits)),
    }
}

fn same_bits(a: u128, b: u128, width: u32, bits: u8) -> bool {
    let ignored = width - u32::from(bits).min(width);
    ignored >= 128 || (a ^ b) >> ignored == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read_strictly() {
        for bad in
            ["10.0.0.0/33", "x", "10.0.0.0/", "::/129", "10.0.0.0/255", "", "/8", "10.0.0.0/8/8", "1.2.3"]
        {
            assert!(IpList::parse([bad]).is_err(), "{bad}");
        }
        let list = IpList::parse(["0.0.0.0/0", "fd00::/8", "::1", "::ffff:10.0.0.0/104"]).expect("networks");
        for ip in ["9.9.9.9", "fd12::1", "::1", "::ffff:9.9.9.9"] {
            assert!(list.has(ip.parse().expect("an address")), "{ip}");
        }
        assert!(!list.has("fe80::1".parse().expect("an address")));
        let mapped = IpList::parse(["::ffff:10.0.0.0/104"]).expect("a network");
        assert!(mapped.has("10.9.9.9".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn a_network_has_its_own_addresses_and_no_others(addr: u128, other: u128, bits in 0_u8..=128) {
            let ip = std::net::Ipv6Addr::from_bits(addr);
            prop_assume!(ip.to_ipv4_mapped().is_none());
            let other_ip = IpAddr::from(std::net::Ipv6Addr::from_bits(other));
            prop_assume!(other_ip.to_canonical().is_ipv6());
            let text = format!("{ip}/{bits}");
            let list = IpList::parse([text.as_str()]).expect("a network");
            prop_assert!(list.has(ip.into()));
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
            prop_assert_eq!(list.has(other_ip), addr & mask == other & mask);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,40}") {
            let _ = IpList::parse([text.as_str()]);
        }
    }
}
