// A worker acks what it should not have: the queue keeps it, and publishes it again. Needs leveret's HTTP API.
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const url = process.env.HTTP_URL ?? 'http://localhost:15672';
const channel = await connection.createChannel();
await channel.assertQueue('sales', { durable: true, arguments: { 'x-retain': 60_000 } });
for (let number = 0; number < 3; number++) {
  channel.sendToQueue('sales', Buffer.from(`sale ${number}`), { headers: { number } });
}

async function work(count) {
  while (count > 0) {
    const message = await channel.get('sales');
    if (!message) continue;
    const seq = message.properties.headers['x-replayed-seq'];
    console.log(seq === undefined ? `${message.content}` : `again: ${message.content}, which was at ${seq}`);
    channel.ack(message);
    count--;
  }
}

async function ask(path, body) {
  const headers = { 'content-type': 'application/json', authorization: `Basic ${btoa('guest:guest')}` };
  const response = await fetch(url + path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

await work(3);
while ((await ask('/v1/queues/sales/retained')).messages.length < 3) {
  await new Promise((done) => setTimeout(done, 50)); // The acks are on their way.
}
console.log('kept: 3');
await ask('/v1/queues/sales/replay', { from_seq: 1 });
await work(2);
await channel.deleteQueue('sales');
await connection.close();
