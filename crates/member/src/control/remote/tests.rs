use mainstay_core::record::ApiClient;
use mainstay_net::api::ApiToken;
use mainstay_net::pki::ClusterCa;

use super::*;

fn client(proof: ClientProof) -> ApiClient {
    ApiClient { proof, by: "root at m1".to_owned(), since_unix_ms: 1 }
}

/// A certificate of a new client, as a handshake has proven it.
fn certificate(ca: &ClusterCa, name: &str) -> ClientCertificate {
    let issued = ca.issue_client(name).expect("issued");
    let key = mainstay_net::KeyFingerprint::of_certificate_pem(&issued.certificate_pem).expect("a key");
    ClientCertificate { key }
}

#[track_caller]
fn refused(
    operation: &Operation,
    certificate: Option<ClientCertificate>,
    authorization: Option<&str>,
    code: &str,
) {
    let refuse = identify(operation, certificate, authorization.map(str::as_bytes)).expect_err("refused");
    let text = format!("{refuse:?}");
    assert!(text.contains(code) && text.contains("remedy: Some"), "{text}");
}

#[test]
fn a_client_is_known_by_the_very_proof_that_the_record_has() {
    let ca = ClusterCa::create("shop").expect("a CA");
    let token = ApiToken::create().expect("random numbers");
    let (ops, stranger) = (certificate(&ca, "ops"), certificate(&ca, "ops"));
    let mut operation = Operation::default();
    let mut admit = |name: &str, proof| operation.clients.insert(name.to_owned(), client(proof));
    admit("deploy", ClientProof::Token { sha256: token.sha256() });
    admit("ops", ClientProof::Certificate { key: ops.key.to_string() });
    let bearer = format!("Bearer {}", token.text());
    let known = |certificate, authorization: Option<&str>| {
        identify(&operation, certificate, authorization.map(str::as_bytes)).ok()
    };
    assert_eq!(known(None, Some(&bearer)).as_deref(), Some("deploy"));
    assert_eq!(known(None, Some(&bearer.replace("Bearer", "bearer"))).as_deref(), Some("deploy"));
    assert_eq!(known(Some(ops), None).as_deref(), Some("ops"));
    // The same name in another certificate of the same CA is nobody's.
    refused(&operation, Some(stranger), None, "403");
    refused(&operation, None, None, "401");
    for wrong in [format!("Basic {}", token.text()), token.text(), format!("Bearer {}", token.sha256())] {
        refused(&operation, None, Some(&wrong), "401");
        // Whoever says a wrong word is not let in by a right certificate: what was meant is not known.
        refused(&operation, Some(ops), Some(&wrong), "401");
    }
    operation.clients.clear();
    refused(&operation, None, Some(&bearer), "401");
    refused(&operation, Some(ops), None, "403");
}
