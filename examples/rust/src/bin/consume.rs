//! Consumes pictures and acknowledges each.

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672/".into());
    // For this client the vhost "/" is no path at all.
    let url = url.strip_suffix('/').unwrap_or(&url);
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare("pictures".into(), durable, FieldTable::default())
        .await?;
    channel.basic_qos(20, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume("pictures".into(), "".into(), options, FieldTable::default())
        .await?;
    println!("waiting for pictures");
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        println!("got: {}", String::from_utf8_lossy(&delivery.data));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
