//! The SQL proxy beside this member: how it does, and orders to it.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use mainstay_net::sql_status::SqlStatus;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::input::Asked;
use super::{Control, Refuse};
use crate::sql_proxy::operator::Answer;

const SEE_THE_LOG: &str = "see whether it runs with `mainstay status`; its log is sql-proxy/sql-proxy.log of the member's directory";

pub(super) async fn status(State(control): State<Control>) -> Result<Json<SqlStatus>, Refuse> {
    let status = control.seen.sql_proxy.status().await;
    status.map(Json).map_err(|why| Refuse::unavailable(why).remedy(SEE_THE_LOG))
}

/// What the proxy is to do: as its console's command of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqlOrder {
    Pause,
    Resume,
    Reconnect,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlOrderRequest {
    pub order: SqlOrder,
    /// `null`: all of them.
    #[serde(default)]
    pub database: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlOrderAnswer {
    pub done: bool,
}

pub(super) async fn order(
    State(control): State<Control>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Asked(request): Asked<SqlOrderRequest>,
) -> Result<Json<SqlOrderAnswer>, Refuse> {
    let database = request.database.unwrap_or_default();
    if database.contains(char::is_whitespace) {
        return Err(Refuse::bad_input("the database's name has blanks in it")
            .remedy("leave it out, to mean all of them"));
    }
    let verb = match request.order {
        SqlOrder::Pause => "PAUSE",
        SqlOrder::Resume => "RESUME",
        SqlOrder::Reconnect => "RECONNECT",
    };
    tracing::info!(by = caller.name(), verb, database, "an order to the SQL proxy");
    match control.seen.sql_proxy.order(format!("{verb} {database}").trim_end()).await {
        Ok(Answer::Failed(why)) => Err(Refuse::conflict(why)),
        Ok(_) => Ok(Json(SqlOrderAnswer { done: true })),
        Err(why) => Err(Refuse::unavailable(why).remedy(SEE_THE_LOG)),
    }
}
