//! What each address has open, and how often it came without a certificate.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::{Bucket, Limits, Refused};

/// Addresses that are remembered before those that have nothing open are forgotten.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Address {
    handshakes: u32,
    anonymous: u32,
    unauthenticated: Bucket,
}

/// All addresses with something open, or that have used up some of what they may.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<IpAddr, Address>);

/// Who has one IPv6 address has 2^64 of them.
fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

impl Addresses {
    fn entry(&mut self, address: IpAddr, limits: &Limits, now: Instant) -> &mut Address {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, a| {
                a.handshakes > 0 || a.anonymous > 0 || !a.unauthenticated.is_full(limits.unauthenticated, now)
            });
        }
        self.0.entry(whole(address)).or_insert_with(|| Address {
            handshakes: 0,
            anonymous: 0,
            unauthenticated: Bucket::full(limits.unauthenticated, now),
        })
    }

    /// Somebody wants to shake hands.
    pub(super) fn begin(&mut self, address: IpAddr, limits: &Limits, now: Instant) -> Result<(), Refused> {
        let entry = self.entry(address, limits, now);
        let may =
            entry.handshakes < limits.handshakes_per_address && entry.unauthenticated.has(limits.unauthenticated, now);
        if !may {
            return Err(Refused::TooManyHandshakes);
        }
        entry.handshakes += 1;
        Ok(())
    }

    /// The handshake is over. Without a certificate it counts.
    pub(super) fn end(&mut self, address: IpAddr, authenticated: bool, limits: &Limits, now: Instant) {
        let entry = self.entry(address, limits, now);
        entry.handshakes = entry.handshakes.saturating_sub(1);
        if !authenticated {
            entry.unauthenticated.take(limits.unauthenticated, now);
        }
    }

    /// A connection without a certificate begins.
    pub(super) fn open(&mut self, address: IpAddr, limits: &Limits, now: Instant) -> Result<(), Refused> {
        let entry = self.entry(address, limits, now);
        if entry.anonymous >= limits.connections_per_peer {
            return Err(Refused::TooManyConnections);
        }
        entry.anonymous += 1;
        Ok(())
    }

    /// It ends.
    pub(super) fn close(&mut self, address: IpAddr) {
        if let Some(entry) = self.0.get_mut(&whole(address)) {
            entry.anonymous = entry.anonymous.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Rate;

    #[test]
    fn an_address_has_so_many_handshakes_and_others_are_not_touched() {
        let unauthenticated = Rate { per_second: 0.0, burst: 3.0 };
        let limits = Limits { handshakes_per_address: 2, unauthenticated, ..Limits::default() };
        let (now, mut addresses) = (Instant::now(), Addresses::default());
        let one: IpAddr = "2001:db8::1".parse().expect("an address");
        let neighbour: IpAddr = "2001:db8::ffff".parse().expect("an address");
        let other: IpAddr = "10.0.0.1".parse().expect("an address");
        assert!(addresses.begin(one, &limits, now).is_ok() && addresses.begin(neighbour, &limits, now).is_ok());
        assert_eq!(addresses.begin(one, &limits, now), Err(Refused::TooManyHandshakes), "of one network");
        assert!(addresses.begin(other, &limits, now).is_ok());
        addresses.end(one, true, &limits, now);
        addresses.end(one, false, &limits, now);
        for _ in 0..2 {
            assert!(addresses.begin(one, &limits, now).is_ok());
            addresses.end(one, false, &limits, now);
        }
        assert_eq!(addresses.begin(one, &limits, now), Err(Refused::TooManyHandshakes), "three without a certificate");
    }
}
