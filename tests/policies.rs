//! Policies that come, change and go over live queues, key by key, on our server in process.
//!
//! Keeps: each effect as a client sees it; no queue is declared anew.
//! In: `conversation.rs`, for its runtime of virtual time.

use std::time::Duration;

use amqp::field::{Table, Value as Field};
use anyhow::{Context, Result};
use store::model::*;
use tests::conversation::client::{Client, Incoming, Received};
use tests::wire::content::{Content, position};
use tests::wire::method::Method;
use tests::wire::value::Value;
use tokio::time::sleep;

use super::in_process::{InProcess, runtime};
use super::rules::{PATIENCE, client, declare, policy, publish};

/// A server, and one client of it.
struct Stage {
    server: InProcess,
    client: Client,
}

impl Stage {
    async fn start() -> Result<Self> {
        let server = InProcess::start().await?;
        let client = client(&server, "guest").await?;
        Ok(Self { server, client })
    }

    async fn call(&mut self, method: Method) -> Result<()> {
        self.client.send(1, &method, None).await?;
        let answer = format!("{}-ok", method.spec.name);
        self.client.await_method(1, &answer, PATIENCE).await?;
        Ok(())
    }

    async fn quorum_queue(&mut self, name: &str) -> Result<()> {
        let arguments = vec![("x-queue-type".to_owned(), Value::str("quorum"))];
        let declare = Method::named("queue.declare")?
            .with("queue", Value::str(name))?
            .with("durable", Value::Bool(true))?
            .with("arguments", Value::Table(arguments))?;
        self.call(declare).await
    }

    /// Lays the policy `p` on queues that begin with `my-`.
    fn lay(&self, definition: &[(&str, Field)]) -> Result<()> {
        let mut table = Table::default();
        for (key, value) in definition {
            table.insert(key, value.clone());
        }
        let policy = PolicySpec {
            definition: table.encode(),
            ..policy(PolicyKind::User, "p", &[])
        };
        Ok(self.server.store().lock().put_policy(policy)?)
    }

    fn lift(&self) -> Result<()> {
        let store = self.server.store();
        store.lock().delete_policy(PolicyKind::User, "/", "p")?;
        Ok(())
    }

    async fn publish(&mut self, queue: &str) -> Result<()> {
        publish(&mut self.client, "", queue).await
    }

    /// basic.get: the delivery tag, if there was a message.
    async fn get(&mut self, queue: &str) -> Result<Option<i64>> {
        let get = Method::named("basic.get")?.with("queue", Value::str(queue))?;
        self.client.send(1, &get, None).await?;
        let is_answer = |came: &Received| came.method.spec.name.starts_with("basic.get-");
        let came = self.client.next_that(1, PATIENCE, is_answer).await?;
        let got = came.method.spec.name == "basic.get-ok";
        Ok(got.then(|| came.method.int("delivery-tag")))
    }

    /// Takes the next message and says what becomes of it.
    async fn give_back(&mut self, queue: &str, requeue: bool) -> Result<()> {
        let tag = self.get(queue).await?.context("a message")?;
        let nack = Method::named("basic.nack")?
            .with("delivery-tag", Value::int(tag))?
            .with("requeue", Value::Bool(requeue))?;
        self.client.send(1, &nack, None).await?;
        self.settled().await
    }

    /// What was sent has been done.
    async fn settled(&mut self) -> Result<()> {
        self.call(Method::named("basic.qos")?).await
    }

    /// Ready and waiting messages of a queue.
    fn count(&self, queue: &str) -> Option<(u64, u64)> {
        let found = self.server.store().stats().queues;
        let found = found.iter().find(|stats| &*stats.name == queue)?;
        Some((found.ready, found.waiting))
    }
}

fn number(value: i64) -> Field {
    Field::I64(value)
}

fn text(value: &str) -> Field {
    Field::text(value)
}

#[test]
fn a_delivery_limit_comes_changes_and_goes() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        for queue in ["my-classic", "my-quorum"] {
            match queue {
                "my-quorum" => stage.quorum_queue(queue).await?,
                _ => drop(declare(&mut stage.client, queue).await?),
            }
            stage.publish(queue).await?;
            // On a queue that counts, what came back before counts too.
            stage.lay(&[("delivery-limit", number(3))])?;
            stage.give_back(queue, true).await?;
            stage.give_back(queue, true).await?;
            stage.lay(&[("delivery-limit", number(-1))])?;
            for _ in 0..5 {
                stage.give_back(queue, true).await?;
            }
            assert_eq!(stage.count(queue), Some((1, 0)), "-1 is no limit");
            stage.lay(&[("delivery-limit", number(8))])?;
            stage.give_back(queue, true).await?;
            assert_eq!(stage.count(queue), Some((1, 0)));
            stage.give_back(queue, true).await?;
            assert_eq!(stage.count(queue), Some((0, 0)), "nine are more than eight");
            stage.publish(queue).await?;
            stage.lay(&[("delivery-limit", number(0))])?;
            stage.lift()?;
            stage.give_back(queue, true).await?;
            assert_eq!(stage.count(queue), Some((1, 0)), "it is gone");
        }
        Ok(())
    })
}

#[test]
fn a_consumer_timeout_holds_for_deliveries_after_it() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        declare(&mut stage.client, "my-q").await?;
        for _ in 0..3 {
            stage.publish("my-q").await?;
        }
        assert_eq!(stage.get("my-q").await?, Some(1));
        stage.lay(&[("consumer-timeout", number(60_000))])?;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(stage.get("my-q").await?, Some(2), "the first knew of none");
        stage.lift()?;
        assert_eq!(stage.get("my-q").await?, Some(3));
        let limit = Duration::from_secs(61);
        let close = stage.client.await_method(1, "channel.close", limit).await?;
        let text = close.method.text("reply-text");
        assert!(text.contains("Timeout value used: 60000 ms"), "{text}");
        Ok(())
    })
}

#[test]
fn delayed_retries_come_change_and_go() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        stage.quorum_queue("my-q").await?;
        stage.publish("my-q").await?;
        let delays = |min, max| {
            [
                ("delayed-retry-type", text("returned")),
                ("delayed-retry-min", number(min)),
                ("delayed-retry-max", number(max)),
            ]
        };
        stage.give_back("my-q", true).await?;
        assert_eq!(stage.count("my-q"), Some((1, 0)));
        stage.lay(&delays(10_000, 20_000))?;
        // The second time it comes back: twice the least.
        stage.give_back("my-q", true).await?;
        assert_eq!(stage.count("my-q"), Some((0, 1)));
        // What waits goes on waiting.
        stage.lift()?;
        sleep(Duration::from_secs(19)).await;
        assert_eq!(stage.count("my-q"), Some((0, 1)));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(stage.count("my-q"), Some((1, 0)));
        stage.give_back("my-q", true).await?;
        assert_eq!(stage.count("my-q"), Some((1, 0)), "it is gone");
        stage.lay(&[("delayed-retry-type", text("disabled"))])?;
        stage.give_back("my-q", true).await?;
        assert_eq!(stage.count("my-q"), Some((1, 0)));
        stage.lay(&delays(1000, 1000))?;
        stage.give_back("my-q", true).await?;
        sleep(Duration::from_millis(900)).await;
        assert_eq!(stage.count("my-q"), Some((0, 1)));
        sleep(Duration::from_millis(300)).await;
        assert_eq!(stage.count("my-q"), Some((1, 0)));
        Ok(())
    })
}

#[test]
fn a_full_queue_refuses_or_drops_as_its_policy_says() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        declare(&mut stage.client, "my-q").await?;
        stage.call(Method::named("confirm.select")?).await?;
        let refuse = [
            ("max-length", number(2)),
            ("overflow", text("reject-publish")),
        ];
        let mut heard = String::new();
        let bytes = Content {
            body: b"12345".to_vec(),
            ..Content::default()
        };
        for (definition, ready) in [
            (&[][..], 1),
            (&refuse[..], 2),
            (&refuse[..], 2),
            (&[("max-length", number(2))][..], 2),
            (&[][..], 3),
            // Fewer than there are: it refuses, and drops nothing.
            (&refuse[..], 3),
            (&[("max-length-bytes", number(9))][..], 1),
            (&[("max-length-bytes", number(10))][..], 2),
            (&[][..], 3),
        ] {
            match definition {
                [] => drop(stage.lift()),
                definition => stage.lay(definition)?,
            }
            let publish =
                Method::named("basic.publish")?.with("routing-key", Value::str("my-q"))?;
            stage.client.send(1, &publish, Some(&bytes)).await?;
            let Incoming::Method(answer) = stage.client.next(Some(1), PATIENCE).await? else {
                anyhow::bail!("no confirm");
            };
            heard += &answer.method.spec.name[6..];
            stage.settled().await?;
            let found = stage.count("my-q").map(|(ready, _)| ready);
            assert_eq!(found, Some(ready), "{definition:?}");
        }
        assert_eq!(heard, "ackacknackackacknackackackack");
        Ok(())
    })
}

#[test]
fn the_dead_go_where_the_policy_says() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        for queue in ["my-q", "dead-1", "dead-2"] {
            declare(&mut stage.client, queue).await?;
        }
        let to = |key| {
            [
                ("dead-letter-exchange", text("")),
                ("dead-letter-routing-key", text(key)),
            ]
        };
        for (key, dead) in [
            (None, [0, 0]),
            (Some("dead-1"), [1, 0]),
            (Some("dead-2"), [1, 1]),
            (None, [1, 1]),
        ] {
            match key {
                Some(key) => stage.lay(&to(key))?,
                None => drop(stage.lift()),
            }
            stage.publish("my-q").await?;
            stage.give_back("my-q", false).await?;
            assert_eq!(stage.count("my-q"), Some((0, 0)));
            let found = ["dead-1", "dead-2"].map(|queue| stage.count(queue));
            assert_eq!(found, dead.map(|ready| Some((ready, 0))), "{key:?}");
        }
        Ok(())
    })
}

#[test]
fn a_strategy_keeps_the_dead_while_it_holds() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        stage.quorum_queue("my-q").await?;
        let keep = [
            ("dead-letter-exchange", text("nowhere")),
            ("dead-letter-strategy", text("at-least-once")),
            ("overflow", text("reject-publish")),
        ];
        stage.lay(&keep)?;
        stage.publish("my-q").await?;
        stage.give_back("my-q", false).await?;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(stage.count("my-q"), Some((0, 1)), "it waits");
        stage.lay(&keep[..1])?;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.count("my-q"), Some((0, 0)), "it may go");
        stage.publish("my-q").await?;
        stage.give_back("my-q", false).await?;
        assert_eq!(stage.count("my-q"), Some((0, 0)));
        Ok(())
    })
}

#[test]
fn priorities_grow_as_a_policy_says_for_what_waits() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        let arguments = vec![("x-max-priority".to_owned(), Value::int(9))];
        let declare = Method::named("queue.declare")?
            .with("queue", Value::str("my-q"))?
            .with("arguments", Value::Table(arguments))?;
        stage.call(declare).await?;
        for (priority, body) in [(1, "low"), (9, "high"), (1, "low again"), (9, "high again")] {
            let mut content = Content {
                body: body.into(),
                ..Content::default()
            };
            let at = position("priority").context("a property")?;
            content.properties[at] = Some(Value::int(priority));
            let publish =
                Method::named("basic.publish")?.with("routing-key", Value::str("my-q"))?;
            stage.client.send(1, &publish, Some(&content)).await?;
            stage.settled().await?;
            sleep(Duration::from_secs(60)).await;
        }
        let mut next = async |definition: &[(&str, Field)]| {
            match definition {
                [] => stage.lift()?,
                _ => stage.lay(definition)?,
            }
            let get = Method::named("basic.get")?
                .with("queue", Value::str("my-q"))?
                .with("no-ack", Value::Bool(true))?;
            stage.client.send(1, &get, None).await?;
            let is_answer = |came: &Received| came.method.spec.name.starts_with("basic.get-");
            let came = stage.client.next_that(1, PATIENCE, is_answer).await?;
            let content = came.content.context("a message")?;
            anyhow::Ok(String::from_utf8(content.body)?)
        };
        let ageing = |ms| [("priority-ageing", number(ms))];
        // Eight levels are eighty seconds, and one is a minute younger.
        assert_eq!(next(&ageing(10_000)).await?, "high");
        assert_eq!(next(&ageing(5_000)).await?, "low");
        assert_eq!(next(&[]).await?, "high again");
        assert_eq!(next(&ageing(0)).await?, "low again");
        Ok(())
    })
}

#[test]
fn a_ttl_that_changes_counts_for_what_is_there() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        for queue in ["my-classic", "my-quorum"] {
            match queue {
                "my-quorum" => stage.quorum_queue(queue).await?,
                _ => drop(declare(&mut stage.client, queue).await?),
            }
            stage.publish(queue).await?;
            stage.settled().await?;
            stage.lay(&[("message-ttl", number(10_000))])?;
            sleep(Duration::from_secs(8)).await;
            stage.lay(&[("message-ttl", number(60_000))])?;
            sleep(Duration::from_secs(40)).await;
            assert_eq!(stage.count(queue), Some((1, 0)));
            stage.lift()?;
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(stage.count(queue), Some((1, 0)));
            stage.lay(&[("message-ttl", number(3_000_000))])?;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(stage.count(queue), Some((0, 0)), "it was older already");
            stage.lift()?;
        }
        Ok(())
    })
}

#[test]
fn an_expiry_that_goes_spares_the_queue() -> Result<()> {
    runtime()?.block_on(async {
        let mut stage = Stage::start().await?;
        declare(&mut stage.client, "my-q").await?;
        stage.lay(&[("expires", number(60_000))])?;
        sleep(Duration::from_secs(50)).await;
        stage.lift()?;
        sleep(Duration::from_secs(3600)).await;
        assert!(stage.count("my-q").is_some());
        stage.lay(&[("expires", number(60_000))])?;
        sleep(Duration::from_secs(50)).await;
        stage.lay(&[("expires", number(120_000))])?;
        sleep(Duration::from_secs(100)).await;
        assert!(
            stage.count("my-q").is_some(),
            "time counts from the change on"
        );
        sleep(Duration::from_secs(30)).await;
        assert!(stage.count("my-q").is_none());
        Ok(())
    })
}
