// A worker without AMQP: publish, receive with a long poll, and settle over plain HTTP.
import amqp from 'amqplib';

const server = process.env.HTTP_URL ?? 'http://localhost:15672';
const headers = { authorization: `Basic ${btoa('guest:guest')}`, 'content-type': 'application/json' };

async function post(path, body) {
  const response = await fetch(new URL(path, server), { method: 'POST', headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response.status === 204 ? null : response.json();
}

// Queues are declared once, by whoever deploys the workers.
const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createChannel();
await channel.assertQueue('parcels', { durable: true, arguments: { 'x-retry-delay': 50 } });

const messages = [1, 2, 3, 4, 5].map((number) => (
  { body: `parcel ${number}`, properties: { message_id: String(number) } }));
console.log('published:', (await post('/v1/queues/parcels/messages', { messages })).accepted);

let left = messages.length;
while (left > 0) {
  const wish = { max: 10, wait_ms: 20_000, lease_ms: 30_000 };
  const batch = await post('/v1/queues/parcels/messages:receive', wish);
  for (const message of batch.messages) {
    const lease = `/v1/queues/parcels/leases/${message.lease}`;
    if (message.body === 'parcel 3' && message.attempt === 1) {
      await post(`${lease}/fail`, { reason: 'no-such-street' }); // It is tried again after a while.
      continue;
    }
    await post(`${lease}/ack`, {});
    console.log(`done: ${message.body} at attempt ${message.attempt}`);
    left -= 1;
  }
}
await channel.deleteQueue('parcels');
await connection.close();
