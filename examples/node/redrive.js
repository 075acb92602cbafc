// Orders that failed because of a bug go back to their queue once it is mended: look, count, redrive.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const server = process.env.HTTP_URL ?? 'http://localhost:15672';
const headers = { authorization: `Basic ${btoa('guest:guest')}`, 'content-type': 'application/json' };

async function ask(method, path, body) {
  const response = await fetch(new URL(path, server), { method, headers, body: body && JSON.stringify(body) });
  return response.json();
}

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
await channel.assertQueue('invoices', { durable: true, arguments: { 'x-retry-limit': 0 } });
for (let number = 1; number <= 4; number++) {
  const country = number % 2 ? 'se' : 'no';
  const options = { persistent: true, messageId: `invoice-${number}`, headers: { country } };
  channel.sendToQueue('invoices', Buffer.from(String(number)), options);
}
await channel.waitForConfirms();

for (let number = 1; number <= 4; number++) { // A worker with a bug: it fails whatever it gets.
  channel.reject(await channel.get('invoices'), false);
}

let dead;
do {
  await sleep(50);
  dead = (await ask('GET', '/v1/queues/invoices/dead')).messages ?? [];
} while (dead.length < 4);
console.log('dead:', ...dead.map((message) => message.properties.message_id));
const swedish = { filter: { headers: { country: 'se' } } };
const counted = await ask('POST', '/v1/queues/invoices/dead:redrive', { ...swedish, dry_run: true });
console.log('to redrive:', counted.count);
let redrive = await ask('POST', '/v1/queues/invoices/dead:redrive', { ...swedish, rate: 100 });
while (redrive.state === 'running') {
  await sleep(50);
  redrive = await ask('GET', `/v1/redrives/${redrive.id}`);
}
console.log(`redrive ${redrive.state}: ${redrive.moved} moved`);
for (let number = 1; number <= 2; number++) { // The bug is mended.
  const message = await channel.get('invoices');
  channel.ack(message);
  console.log('done:', message.properties.messageId);
}
const purged = await ask('POST', '/v1/queues/invoices/dead:purge', {});
console.log('purged:', purged.count);
await channel.deleteQueue('invoices');
await channel.deleteQueue('invoices.dlq');
await connection.close();
