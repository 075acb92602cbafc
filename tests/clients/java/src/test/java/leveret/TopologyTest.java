package leveret;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.LongString;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

/** Opening and closing, queues and exchanges, routing: what is agreed, and what is refused. */
class TopologyTest extends World {
    @Test
    void serverPropertiesNameWhatClientsLookFor() {
        Map<String, Object> properties = connection.getServerProperties();
        assertEquals("RabbitMQ", properties.get("product").toString());
        assertTrue(((LongString) properties.get("version")).toString().matches("\\d+\\.\\d+\\.\\d+.*"));
        Map<?, ?> capabilities = (Map<?, ?>) properties.get("capabilities");
        for (String name : List.of("publisher_confirms", "exchange_exchange_bindings", "basic.nack",
                "consumer_cancel_notify", "connection.blocked", "authentication_failure_close")) {
            assertEquals(true, capabilities.get(name), name);
        }
    }

    @Test
    void closeIsClean() throws Exception {
        Channel channel = channel();
        connection.close();
        assertFalse(channel.isOpen());
        assertTrue(connection.getCloseReason().isInitiatedByApplication());
    }

    @Test
    void wrongPasswordIsRefused() throws Exception {
        ConnectionFactory wrong = factory();
        wrong.setPassword("wrong");
        String message = assertThrows(AuthenticationFailureException.class, wrong::newConnection).getMessage();
        assertTrue(message.startsWith("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"), message);
    }

    @Test
    void unknownVhostIsRefused() throws Exception {
        ConnectionFactory wrong = factory();
        wrong.setVirtualHost("no-such-vhost");
        refused(530, "NOT_ALLOWED - vhost no-such-vhost not found", wrong::newConnection);
    }

    @Test
    void limitsAreNegotiated() throws Exception {
        ConnectionFactory factory = factory();
        factory.setRequestedHeartbeat(7);
        factory.setRequestedFrameMax(4096);
        factory.setRequestedChannelMax(5);
        try (Connection small = factory.newConnection()) {
            assertEquals(7, small.getHeartbeat());
            assertEquals(4096, small.getFrameMax());
            assertEquals(5, small.getChannelMax());
            Channel channel = small.createChannel();
            String queue = queue(channel);
            String body = "frame".repeat(5000);
            publish(channel, "", queue, body);
            assertEquals(body, text(get(channel, queue, true).getBody()));
        }
    }

    @Test
    void anIdleConnectionLivesOnHeartbeats() throws Exception {
        ConnectionFactory factory = factory();
        factory.setRequestedHeartbeat(1);
        try (Connection idle = factory.newConnection()) {
            Thread.sleep(3500);
            assertTrue(idle.isOpen());
            queue(idle.createChannel());
        }
    }

    @Test
    void aChannelErrorLeavesTheOthersAlive() throws Exception {
        Channel healthy = channel();
        Channel sick = channel();
        refused(404, "NOT_FOUND - no queue 'nowhere-at-all' in vhost '/'", () -> sick.queueDeclarePassive("nowhere-at-all"));
        assertFalse(sick.isOpen());
        String queue = queue(healthy);
        fill(healthy, queue, List.of("still here"));
        assertEquals("still here", text(get(healthy, queue, true).getBody()));
    }

    @Test
    void aConnectionErrorEndsTheConnectionOnly() throws Exception {
        Connection other = connect();
        channel().basicPublish("", "k", false, true, PLAIN, bytes("m"));
        until(() -> !connection.isOpen());
        AMQP.Connection.Close close = (AMQP.Connection.Close) connection.getCloseReason().getReason();
        assertEquals("540 NOT_IMPLEMENTED - immediate=true", close.getReplyCode() + " " + close.getReplyText());
        queue(other.createChannel());
    }

    @Test
    void declareAnswersNameAndCounts() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 2));
        channel.basicQos(1);
        new Inbox(channel, queue, false).take(1);
        AMQP.Queue.DeclareOk state = channel.queueDeclarePassive(queue);
        assertEquals(List.of(queue, 1, 1), List.of(state.getQueue(), state.getMessageCount(), state.getConsumerCount()));
        assertEquals(1, channel.consumerCount(queue));
    }

    @Test
    void missingExchangeIs404() throws Exception {
        String text = "NOT_FOUND - no exchange 'nowhere-at-all' in vhost '/'";
        refused(404, text, () -> channel().exchangeDeclarePassive("nowhere-at-all"));
        String queue = queue(channel());
        refused(404, text, () -> channel().queueBind(queue, "nowhere-at-all", "k"));
        Channel publisher = channel();
        publish(publisher, "nowhere-at-all", "k", "m");
        closes(publisher, 404, text);
    }

    @Test
    void inequivalentDeclarationsAre406() throws Exception {
        String queue = queue(channel(), "q", Map.of("x-message-ttl", 60000));
        refused(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + queue
                + "' in vhost '/': received 'false' but current is 'true'",
            () -> channel().queueDeclare(queue, false, false, false, Map.of("x-message-ttl", 60000)));
        refused(406, "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '" + queue + "' in vhost '/': received",
            () -> channel().queueDeclare(queue, true, false, false, Map.of("x-message-ttl", 1)));
        // The same number in another width is the same argument.
        channel().queueDeclare(queue, true, false, false, Map.of("x-message-ttl", 60000L));
        String exchange = exchange(channel(), "x", "direct");
        refused(406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '" + exchange
                + "' in vhost '/': received 'fanout' but current is 'direct'",
            () -> channel().exchangeDeclare(exchange, BuiltinExchangeType.FANOUT));
    }

    @Test
    void reservedNamesAre403() {
        refused(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
            () -> channel().queueDeclare("amq.mine", false, false, false, null));
        refused(403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
            () -> channel().exchangeDeclare("amq.mine", "direct"));
    }

    @Test
    void serverNamedQueues() throws Exception {
        Channel channel = channel();
        String queue = channel.queueDeclare().getQueue();
        assertTrue(queue.matches("amq\\.gen-[\\w-]{22}"), queue);
        // An empty name means the queue declared last on this channel.
        channel.queueBind("", "amq.direct", prefix);
        publish(channel, "amq.direct", prefix, "m");
        assertEquals("m", text(get(channel, queue, true).getBody()));
    }

    @Test
    void anExclusiveQueueIsLockedAndGoesWithItsConnection() throws Exception {
        Connection owner = connect();
        String queue = queueName("exclusive");
        owner.createChannel().queueDeclare(queue, false, true, false, null);
        refused(405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '" + queue + "' in vhost '/'",
            () -> channel().queueDeclare(queue, false, true, false, null));
        owner.close();
        refused(404, "NOT_FOUND - no queue '" + queue + "' in vhost '/'", () -> channel().queueDeclarePassive(queue));
    }

    @Test
    void autoDeleteGoesWithTheLastUser() throws Exception {
        Channel channel = channel();
        String queue = queueName("auto");
        channel.queueDeclare(queue, false, false, true, null);
        channel.basicCancel(channel.basicConsume(queue, true, (t, d) -> {}, t -> {}));
        refused(404, "NOT_FOUND - no queue '" + queue + "' in vhost '/'", () -> channel().queueDeclarePassive(queue));
        String kept = queue(channel);
        String exchange = prefix + "-auto";
        channel.exchangeDeclare(exchange, "fanout", false, true, null);
        channel.queueBind(kept, exchange, "");
        channel.queueUnbind(kept, exchange, "");
        refused(404, "NOT_FOUND - no exchange '" + exchange + "' in vhost '/'", () -> channel().exchangeDeclarePassive(exchange));
    }

    @Test
    void purgeAndDeleteCount() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 3));
        assertEquals(3, channel.queuePurge(queue).getMessageCount());
        fill(channel, queue, numbers(0, 2));
        assertEquals(2, channel.queueDelete(queue).getMessageCount());
        assertEquals(0, channel.queueDelete(queue).getMessageCount());
    }

    @Test
    void conditionalDeletesAre406() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        fill(channel, queue, numbers(0, 1));
        refused(406, "PRECONDITION_FAILED - queue '" + queue + "' in vhost '/' not empty",
            () -> channel().queueDelete(queue, false, true));
        new Inbox(channel, queue, false);
        refused(406, "PRECONDITION_FAILED - queue '" + queue + "' in vhost '/' in use",
            () -> channel().queueDelete(queue, true, false));
        String exchange = exchange(channel, "x", "direct");
        channel.queueBind(queue, exchange, "k");
        refused(406, "PRECONDITION_FAILED - exchange '" + exchange + "' in vhost '/' in use",
            () -> channel().exchangeDelete(exchange, true));
    }

    @Test
    void deletingAQueueCancelsItsConsumers() throws Exception {
        Channel channel = channel();
        String queue = queue(channel);
        Inbox inbox = new Inbox(channel, queue, false);
        channel().queueDelete(queue);
        assertEquals(inbox.tag, inbox.cancelled.poll(15, TimeUnit.SECONDS));
        assertTrue(channel.isOpen());
    }

    @Test
    void topicBindings() throws Exception {
        Channel channel = channel();
        channel.confirmSelect();
        String exchange = exchange(channel, "x", "topic");
        Map<String, String> bound = new LinkedHashMap<>();
        for (String pattern : List.of("#", "log.*", "log.#", "*.error", "*.*.error", "log.#.error")) {
            bound.put(pattern, queue(channel, "t" + bound.size(), null));
            channel.queueBind(bound.get(pattern), exchange, pattern);
        }
        Map<String, List<String>> expected = Map.of(
            "log", List.of("#", "log.#"),
            "log.error", List.of("#", "log.*", "log.#", "*.error", "log.#.error"),
            "log.disk.error", List.of("#", "log.#", "*.*.error", "log.#.error"),
            "app.error", List.of("#", "*.error"),
            "app", List.of("#"));
        for (var entry : expected.entrySet()) {
            publish(channel, exchange, entry.getKey(), "m");
            assertEquals(entry.getValue(), reached(channel, bound), entry.getKey());
        }
    }

    @Test
    void headersBindings() throws Exception {
        Channel channel = channel();
        channel.confirmSelect();
        String exchange = exchange(channel, "x", "headers");
        Map<String, String> bound = new LinkedHashMap<>();
        for (String match : List.of("all", "any")) {
            bound.put(match, queue(channel, match, null));
            channel.queueBind(bound.get(match), exchange, "", Map.of("x-match", match, "format", "pdf", "pages", 3));
        }
        for (var entry : Map.<Map<String, Object>, List<String>>of(
                Map.of("format", "pdf", "pages", 3, "more", true), List.of("all", "any"),
                Map.of("format", "pdf"), List.of("any"),
                Map.of("format", "zip", "pages", 4), List.of(),
                Map.of(), List.of()).entrySet()) {
            channel.basicPublish(exchange, "ignored", new AMQP.BasicProperties.Builder().headers(entry.getKey()).build(), bytes("m"));
            assertEquals(entry.getValue(), reached(channel, bound), entry.getKey().toString());
        }
    }

    @Test
    void fanoutAndExchangeToExchange() throws Exception {
        Channel channel = channel();
        channel.confirmSelect();
        String source = exchange(channel, "source", "direct");
        String fan = exchange(channel, "fan", "fanout");
        Map<String, String> bound = new LinkedHashMap<>();
        for (String label : List.of("a", "b")) {
            bound.put(label, queue(channel, label, null));
            channel.queueBind(bound.get(label), fan, "");
        }
        assertNotNull(channel.exchangeBind(fan, source, "eu"));
        publish(channel, source, "eu", "m");
        assertEquals(List.of("a", "b"), reached(channel, bound));
        publish(channel, source, "us", "m");
        assertEquals(List.of(), reached(channel, bound));
        channel.exchangeUnbind(fan, source, "eu");
        publish(channel, source, "eu", "m");
        assertEquals(List.of(), reached(channel, bound));
    }

    /** Empties the queues and names those that held exactly one message. */
    private static List<String> reached(Channel channel, Map<String, String> bound) throws Exception {
        channel.waitForConfirmsOrDie(15_000);
        List<String> found = new ArrayList<>();
        for (var entry : bound.entrySet()) {
            if (channel.queuePurge(entry.getValue()).getMessageCount() == 1) {
                found.add(entry.getKey());
            }
        }
        return found;
    }
}
