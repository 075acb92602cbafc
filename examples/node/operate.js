// A queue is stopped, read page by page, cleaned up and partly moved elsewhere; then it goes on.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const server = process.env.HTTP_URL ?? 'http://localhost:15672';
const headers = { authorization: `Basic ${btoa('guest:guest')}`, 'content-type': 'application/json' };

async function ask(method, path, body) {
  const response = await fetch(new URL(path, server), { method, headers, body: body && JSON.stringify(body) });
  return response.json();
}

// All entries of a list, however many pages it has.
async function* everything(path, name) {
  const query = new URLSearchParams({ limit: 2 });
  for (;;) {
    const page = await ask('GET', `${path}?${query}`);
    yield* page[name];
    if (!page.next_cursor) return;
    query.set('cursor', page.next_cursor);
  }
}

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
await channel.assertQueue('tickets', { durable: true });
await channel.assertQueue('tickets.vip', { durable: true });

console.log('paused:', (await ask('POST', '/v1/queues/tickets/pause')).paused);
for (const [at, kind] of ['vip', 'plain', 'test', 'plain', 'vip'].entries()) {
  const options = { persistent: true, messageId: `${kind}-${at + 1}`, headers: { kind } };
  channel.sendToQueue('tickets', Buffer.from(String(at + 1)), options); // publishers notice nothing
}
await channel.waitForConfirms();

const seen = [];
for await (const ticket of everything('/v1/queues/tickets/messages', 'messages')) {
  seen.push(ticket.properties.message_id);
}
console.log('seen:', ...seen);
const test = { filter: { headers: { kind: 'test' } } };
console.log('purged:', (await ask('POST', '/v1/queues/tickets/messages:purge', test)).count);
const vip = { filter: { headers: { kind: 'vip' } }, to: 'tickets.vip' };
let move = await ask('POST', '/v1/queues/tickets/messages:move', vip);
while (move.state === 'running') {
  await sleep(50);
  move = await ask('GET', `/v1/redrives/${move.id}`);
}
console.log('moved:', move.moved);
console.log('paused:', (await ask('POST', '/v1/queues/tickets/resume')).paused);

for (const queue of ['tickets', 'tickets.vip']) {
  let message;
  while ((message = await channel.get(queue, { noAck: true }))) {
    console.log(`from ${queue}:`, message.properties.messageId);
  }
  await channel.deleteQueue(queue);
}
await connection.close();
