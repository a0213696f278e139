"""What Prometheus reads at /metrics, in a registry of the app's own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # items
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        arm = ("route", "name", "version", "role")

        def counter(name: str, help: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"tsumugi_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tsumugi_{name}", help, labels, buckets=buckets, registry=self.registry)

        self.answers = counter("answers", "Answers of all routes", ("route", "status"))
        self.seconds = histogram("answer_seconds", "From a request's first byte to its answer's last", arm, SECONDS)
        self.first = histogram("first_token_seconds", "From a request to its first text", ("name", "version"), SECONDS)
        self.tokens = counter("tokens", "Tokens read and written", ("name", "version", "kind"))
        self.batches = histogram("batch_size", "Items of a pass", ("name",), SIZES)
        self.rejected = counter("rejected", "Requests refused before a model saw them", ("reason",))
        self.swaps = counter("swaps", "Versions that came, and those refused", ("name", "result"))
        self.shadows = counter("shadows", "Requests copied to a shadow, or left out", ("name", "result"))
        self.waiting = Gauge("tsumugi_waiting", "Requests in a queue", ("name", "version"), registry=self.registry)
        self.dropped = Gauge("tsumugi_traffic_dropped", "Rows of traffic that were lost", registry=self.registry)
