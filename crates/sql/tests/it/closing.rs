//! The proxy ends.

use crate::postgres::wait_for;
use crate::proxy::Proxy;
use crate::wire::{Wire, code, kinds, outcome};

#[test]
fn the_idle_are_told_and_a_transaction_ends_first() {
    let mut proxy = Proxy::of_size(2);
    let lease_ms = 500;
    proxy.member.tell(|routes| routes.lease_ms = lease_ms);
    let (mut idle, mut open) = (proxy.client(), proxy.client());
    let mut waiting = proxy.client();
    waiting.ok("LISTEN nothing");
    open.ok("BEGIN");
    proxy.begin_to_close();
    for client in [&mut idle, &mut waiting] {
        let messages = client.until_ready();
        assert_eq!(kinds(&messages), "E!", "{:?}", outcome(&messages));
        let failure = outcome(&messages).unwrap_err();
        assert_eq!((failure.severity.as_str(), failure.code.as_str()), ("FATAL", "57P01"));
    }
    assert!(Wire::tcp(proxy.port).is_err(), "new clients are taken");
    // Longer than the lease, which has to be renewed on.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(3 * lease_ms);
    wait_for("the lease to have been renewed", || {
        assert_eq!(open.one("SELECT 1"), "1");
        std::time::Instant::now() > until
    });
    assert!(!proxy.is_closed());
    open.simple("COMMIT").send();
    let messages = open.until_ready();
    assert_eq!(kinds(&messages), "CZ");
    assert_eq!(code(outcome(&open.until_ready())), "57P01");
    wait_for("the proxy to end", || proxy.is_closed());
}
