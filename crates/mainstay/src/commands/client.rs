//! `client`: who may use the API from another machine. The secret is made here and goes into a file; the record learns what it is known by.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use mainstay_core::record::{ClientProof, Kind};
use mainstay_member::control::{AddClient, ClientRow, RemoveClient, SQL_PROXY};
use mainstay_member::{Configuration, certificates};
use mainstay_net::KeyFingerprint;
use mainstay_net::api::{ApiToken, token_sha256};
use mainstay_net::join::JoinToken;
use mainstay_net::pki::{self, ClusterCa};
use serde_json::json;

use crate::cli::{ClientOptions, ClientVerb};
use crate::client::Control;
use crate::configuration;
use crate::output::println;

pub(crate) async fn run(options: &ClientOptions) -> Result<ExitCode> {
    let configuration = configuration::load(&options.shared.config)?;
    let control = Control::of(&configuration);
    match &options.verb {
        ClientVerb::List => {
            let clients: Vec<ClientRow> = control.get("/v1/clients").await?;
            show(&clients, options.shared.json)?;
        }
        ClientVerb::Add { name, certificate, sql_proxy, out } => {
            // Names that cannot be are refused by the member; here one could be a path.
            let file = name.replace('/', "_");
            let made = match (certificate, sql_proxy) {
                (true, _) => {
                    new_certificate(&configuration, name, &out.clone().unwrap_or_else(|| file.into()))?
                }
                (_, true) => {
                    let out = out.clone().unwrap_or_else(|| format!("{file}.join").into());
                    new_invitation(&configuration, out)?
                }
                _ => new_token(out.clone().unwrap_or_else(|| format!("{file}.token").into()))?,
            };
            let recorded = if *sql_proxy { format!("{SQL_PROXY}{name}") } else { name.clone() };
            let request = AddClient { name: recorded, proof: made.proof.clone() };
            let added: Result<ClientRow> = control.post("/v1/clients/add", &request).await;
            if let Err(error) = added {
                // Whether it is in the record or not, nobody has been told the secret.
                made.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
                return Err(error);
            }
            if options.shared.json {
                println!("{}", json!({ "name": name, "files": made.files, "proof": made.proof }));
            } else {
                let files: Vec<String> = made.files.iter().map(|file| file.display().to_string()).collect();
                if *sql_proxy {
                    println!("a SQL proxy that has the word in {} may ask every member", files.join(" and "));
                    println!(
                        "On the application's machine: mainstay sql-proxy --join \"$(cat {})\"",
                        files.join(" ")
                    );
                } else {
                    println!("{name} may use the API of every member, with {}", files.join(" and "));
                    println!("{}", example(&configuration, &made));
                }
            }
        }
        ClientVerb::Remove { name } => {
            let request = RemoveClient { name: name.clone() };
            let _: RemoveClient = control.post("/v1/clients/remove", &request).await?;
            match options.shared.json {
                true => println!("{}", json!({ "removed": name })),
                false => println!("{name} is refused from now on"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a client proves itself with.
struct Made {
    proof: ClientProof,
    files: Vec<PathBuf>,
}

fn new_token(file: PathBuf) -> Result<Made> {
    let token = ApiToken::create().context("the operating system gives no random numbers")?;
    pki::write_private_key(&file, &format!("{}\n", token.text())).with_context(|| {
        format!("the token is not written to {}; name a new file with --out", file.display())
    })?;
    Ok(Made { proof: ClientProof::Token { sha256: token.sha256() }, files: vec![file] })
}

/// A word that names the cluster and a member of it too, so that a machine needs nothing else.
fn new_invitation(configuration: &Configuration, file: PathBuf) -> Result<Made> {
    let authority = &configuration.tls.authority;
    let pem = std::fs::read_to_string(authority);
    let pem = pem.with_context(|| format!("cannot read {}", authority.display()))?;
    let token = JoinToken::create(KeyFingerprint::of_certificate_pem(&pem)?)?;
    // A witness has no certificate for it.
    let mut data = configuration.members.values().filter(|row| row.kind == Kind::Data);
    let own = Some(configuration.own_row()).filter(|row| row.kind == Kind::Data);
    let row = own.or_else(|| data.next()).context("no member of the configuration runs PostgreSQL")?;
    let http = row.http;
    // The port always: it is another one than that of members who join.
    let word = format!("{}@{http}", token.text());
    let sha256 = token_sha256(&format!("{SQL_PROXY}{}", token.text()));
    pki::write_private_key(&file, &format!("{word}\n")).with_context(|| {
        format!("the word is not written to {}; name a new file with --out", file.display())
    })?;
    Ok(Made { proof: ClientProof::Token { sha256 }, files: vec![file] })
}

fn new_certificate(configuration: &Configuration, name: &str, out: &Path) -> Result<Made> {
    let authority_key = certificates::authority_key(configuration);
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let key = read(&authority_key).context("a certificate is issued where the key of the cluster's CA is")?;
    let ca = ClusterCa::load(&configuration.cluster, &read(&configuration.tls.authority)?, &key)?;
    let issued = ca.issue_client(name)?;
    let fingerprint = KeyFingerprint::of_certificate_pem(&issued.certificate_pem)?;
    let files = ["key", "pem"].map(|kind| PathBuf::from(format!("{}.{kind}", out.display())));
    let other = "nothing was written; name another file with --out";
    pki::write_private_key(&files[0], &issued.key_pem).context(other)?;
    if let Err(error) = pki::write_certificate(&files[1], &issued.certificate_pem) {
        std::fs::remove_file(&files[0])?;
        return Err(error).context(other);
    }
    Ok(Made { proof: ClientProof::Certificate { key: fingerprint.to_string() }, files: files.to_vec() })
}

fn example(configuration: &Configuration, made: &Made) -> String {
    let authority = configuration.tls.authority.display();
    let http = configuration.own_row().http;
    let who = match made.files.as_slice() {
        [token] => format!("-H \"Authorization: Bearer $(cat {})\"", token.display()),
        files => format!("--key {} --cert {}", files[0].display(), files[1].display()),
    };
    format!("Try it: curl --cacert {authority} {who} https://{http}/v1/config")
}

fn show(clients: &[ClientRow], as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(clients)?);
        return Ok(());
    }
    if clients.is_empty() {
        println!(
            "nobody may change anything from another machine; let somebody in with: mainstay client add NAME"
        );
    }
    for client in clients {
        let proof = match &client.proof {
            ClientProof::Token { .. } => "token".to_owned(),
            ClientProof::Certificate { key } => format!("certificate {key}"),
        };
        println!("{:<16} {proof}, let in by {}", client.name, client.by);
    }
    Ok(())
}
