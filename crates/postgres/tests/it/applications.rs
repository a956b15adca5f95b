//! Databases and roles as they are wanted, on a real server.

use mainstay_postgres::application::{Access, ApplicationError, Report, WantedDatabase, WantedRole, apply};
use tokio_postgres::{Client, NoTls};

use crate::server::{LONG, Member, World};

fn role(name: &str, password: &str) -> WantedRole {
    WantedRole { name: name.to_owned(), password: Some(password.to_owned()) }
}

fn shop() -> WantedDatabase {
    WantedDatabase {
        name: "shop".to_owned(),
        owner: role("shop_owner", "first-secret"),
        extensions: vec!["plpgsql".to_owned()],
        encoding: Some("UTF8".to_owned()),
        locale: Some("C".to_owned()),
        roles: vec![
            (role("reader", "reader-secret"), Access::ReadOnly),
            (role("writer", "writer-secret"), Access::ReadWrite),
        ],
        networks: vec!["127.0.0.1/32".to_owned()],
    }
}

async fn bring(member: &Member, wanted: &[WantedDatabase]) -> Report {
    apply(&member.server(), wanted, LONG).await.unwrap()
}

async fn login(
    member: &Member,
    database: &str,
    role: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut configuration = tokio_postgres::Config::new();
    configuration.host("127.0.0.1").port(member.settings.port).user(role).dbname(database);
    let (client, connection) = configuration.password(password).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn databases_and_roles_are_made_once_and_passwords_rotate() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let mut wanted = shop();
    let report = bring(&primary, std::slice::from_ref(&wanted)).await;
    assert!(report.is_settled(), "{report:?}");
    assert_eq!(
        report.done[..4],
        ["made role shop_owner", "made role reader", "made role writer", "made database shop"]
    );
    // Nothing differs any more.
    assert_eq!(bring(&primary, std::slice::from_ref(&wanted)).await, Report::default());

    let owner = login(&primary, "shop", "shop_owner", "first-secret").await.unwrap();
    owner.batch_execute("CREATE TABLE goods (n int); INSERT INTO goods VALUES (1)").await.unwrap();
    let reader = login(&primary, "shop", "reader", "reader-secret").await.unwrap();
    reader.query_one("SELECT n FROM goods", &[]).await.expect("also what was made later");
    assert!(reader.batch_execute("DELETE FROM goods").await.is_err(), "it is read-only");
    let writer = login(&primary, "shop", "writer", "writer-secret").await.unwrap();
    writer.batch_execute("UPDATE goods SET n = 2").await.unwrap();
    assert!(writer.batch_execute("DROP TABLE goods").await.is_err(), "it is not its owner");

    wanted.owner.password = Some("second-secret".to_owned());
    let report = bring(&primary, std::slice::from_ref(&wanted)).await;
    assert_eq!(report.done, ["changed the password of role shop_owner"]);
    owner.batch_execute("SELECT 1").await.expect("a session goes on");
    assert!(login(&primary, "shop", "shop_owner", "first-secret").await.is_err());
    login(&primary, "shop", "shop_owner", "second-secret").await.unwrap();
    // What is not wanted any more is nobody's to drop.
    bring(&primary, &[]).await;
    login(&primary, "shop", "reader", "reader-secret").await.unwrap();

    primary.sql().await.batch_execute("ALTER SYSTEM RESET ALL").await.unwrap_err();
    let log = primary.log();
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn what_is_somebody_else_s_is_told_and_left() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let sql = primary.sql().await;
    sql.batch_execute("CREATE ROLE other LOGIN").await.unwrap();
    sql.batch_execute("CREATE DATABASE shop OWNER other TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        .await
        .unwrap();
    sql.batch_execute("CREATE ROLE reader SUPERUSER LOGIN").await.unwrap();
    let mut wanted = shop();
    wanted.extensions.push("no_such_extension".to_owned());
    let report = bring(&primary, std::slice::from_ref(&wanted)).await;
    let left = report.left.join("\n");
    for words in [
        "database shop belongs to other, not to shop_owner: ALTER DATABASE",
        "has encoding SQL_ASCII, which cannot be changed",
        "role reader is a superuser",
        "no_such_extension of shop is not installed",
    ] {
        assert!(left.contains(words), "{words}: {left}");
    }
    let owner: String = sql
        .query_one("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'shop'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(owner, "other");
    wanted.owner.name = "mainstay".to_owned();
    let refused = apply(&primary.server(), &[wanted], LONG).await.unwrap_err();
    assert!(matches!(refused, ApplicationError::Wanted { .. }), "{refused}");
}

#[tokio::test]
async fn a_standby_is_left_to_its_primary() {
    let world = World::new();
    let primary = world.primary("m1").await;
    let standby = world.standby("m2", &primary).await;
    assert!(apply(&standby.server(), &[shop()], LONG).await.is_err());
    bring(&primary, &[shop()]).await;
    standby.wait_caught_up(&primary).await;
    login(&standby, "shop", "reader", "reader-secret").await.expect("it is replicated");
}
