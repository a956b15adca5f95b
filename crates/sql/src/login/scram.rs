//! Whether a client has the password that it should have, by the verifier that PostgreSQL stores.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mainstay_pgwire::backend::{self, Report};
use mainstay_pgwire::frontend::sasl_initial;
use mainstay_pgwire::scram::{Mechanism, ServerExchange, Verifier};

use super::LoginError;
use crate::refusal;
use crate::server::next_message_of;
use crate::stream::Connection;
use crate::worker::Worker;

/// An answer of SASL's is a few hundred bytes long.
const MOST_ANSWER_BYTES: usize = 8 * 1024;

/// SCRAM with the verifier that PostgreSQL has. What the client shows opens PostgreSQL for it later.
pub(super) async fn authenticate(
    worker: &Rc<Worker>,
    connection: &mut Connection,
    user: &Rc<str>,
    binding: Option<&[u8]>,
) -> Result<(), LoginError> {
    let (text, verifier) = verifier_of(worker, user).await?;
    let mut message = Vec::new();
    let plus = binding.map(|_| Mechanism::ScramSha256Plus.name());
    let offered: Vec<&str> = plus.into_iter().chain([Mechanism::ScramSha256.name()]).collect();
    backend::push_sasl(&mut message, &offered);
    connection.queue(&message);
    connection.flush().await?;
    let (kind, body) = next_message_of(connection, MOST_ANSWER_BYTES).await?;
    let (name, data) =
        sasl_initial(kind, &body).ok_or_else(|| refusal::protocol_violation("no answer of SASL's"))?;
    let told = |error: mainstay_pgwire::scram::ScramError| {
        let report = Report::fatal(error.sqlstate(), error.to_string());
        // The password may have been changed since they were asked for; then the next attempt succeeds.
        worker.shared.ask_roles.notify_one();
        if error.sqlstate() == "28P01" { wrong_password(user) } else { report }
    };
    let mechanism = Mechanism::parse(name)
        .ok_or_else(|| refusal::protocol_violation(format!("SASL mechanism {name:?} was not offered")))?;
    let mut exchange = ServerExchange::new(
        verifier.clone(),
        mechanism,
        binding.map(<[u8]>::to_vec),
        &crate::random::nonce(),
    );
    let first = exchange.client_first(data).map_err(told)?;
    let mut message = Vec::new();
    backend::push_sasl_data(&mut message, &first, false);
    connection.queue(&message);
    connection.flush().await?;
    let (kind, body) = next_message_of(connection, MOST_ANSWER_BYTES).await?;
    if kind != b'p' {
        return Err(refusal::protocol_violation("no answer of SASL's").into());
    }
    let (last, client_key) = exchange.client_final(&body).map_err(told)?;
    let Some(text) = text else { return Err(wrong_password(user).into()) };
    worker.keep_credentials(user, client_key, &verifier, text);
    let mut message = Vec::new();
    backend::push_sasl_data(&mut message, &last, true);
    connection.queue(&message);
    Ok(())
}

/// The words of PostgreSQL, for whatever was wrong: a stranger learns nothing of who exists.
fn wrong_password(user: &str) -> Report {
    Report::fatal("28P01", format!("password authentication failed for user \"{user}\""))
}

/// The role's verifier, and its text; one that nothing fits, and no text, for who does not exist or must not come in.
async fn verifier_of(worker: &Rc<Worker>, user: &str) -> Result<(Option<Arc<str>>, Verifier), Report> {
    let mut roles = worker.shared.roles.clone();
    let known = |roles: &crate::worker::Roles| roles.as_ref().map(|roles| roles.contains_key(user));
    // What is seen now is no news.
    let is_known = known(&roles.borrow_and_update());
    if is_known != Some(true) {
        // It may have been made since they were asked for.
        worker.shared.ask_roles.notify_one();
        let patience = Duration::from_secs(if is_known.is_some() { 1 } else { 30 });
        let _ = tokio::time::timeout(patience, roles.changed()).await;
    }
    let roles = roles.borrow_and_update().clone();
    let roles = roles.ok_or_else(|| {
        Report::fatal("57P03", "the SQL proxy does not know yet who may log in").hint(
            "The member beside it must run, and one PostgreSQL of the cluster; `mainstay status` shows both.",
        )
    })?;
    let unknown = || (None, Verifier::unknown(user, &worker.shared.secret));
    let Some(role) = roles.get(user) else { return Ok(unknown()) };
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    if role
        .valid_until_unix_ms
        .is_some_and(|until| i128::from(until) <= i128::try_from(now_ms).unwrap_or(i128::MAX))
    {
        return Ok(unknown());
    }
    match role.verifier.as_deref() {
        Some(text) if text.starts_with("md5") => Err(Report::fatal(
            "28000",
            format!("the password of role \"{user}\" is kept as MD5, which the SQL proxy does not take"),
        )
        .hint("SET password_encryption = 'scram-sha-256', then set the password again: ALTER ROLE … PASSWORD ….")),
        Some(text) => match Verifier::parse(text) {
            Some(verifier) => Ok((Some(text.into()), verifier)),
            None => Ok(unknown()),
        },
        None => Ok(unknown()),
    }
}
