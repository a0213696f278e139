"""What Prometheus reads at /metrics, in a registry of the app's own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # items
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

ENGINE = {  # a decoder's, as engine/statistics.py has them
    "active": "Requests that hold a slot, or whose prompt is being read",
    "slots": "Requests that can decode together",
    "cache_used": "Share of the slots' room that holds tokens",
    "tokens_per_second": "Tokens drawn, over the last ten seconds",
    "prompt_tokens": "Tokens of all prompts so far",
    "cached_tokens": "Of them, those whose keys and values were known",
    "prefix_bytes": "Bytes of keys and values kept of earlier texts",
    "guessed": "Tokens guessed so far",
    "confirmed": "Of them, those that were right",
}


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        arm = ("route", "name", "version", "role")

        def counter(name: str, help: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"tsumugi_{name}", help, labels, registry=self.registry)

        def histogram(name: str, help: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tsumugi_{name}", help, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"tsumugi_{name}", help, ("name", "version"), registry=self.registry)

        self.answers = counter("answers", "Answers of all routes", ("route", "status"))
        self.seconds = histogram("answer_seconds", "From a request's first byte to its answer's last", arm, SECONDS)
        self.first = histogram("first_token_seconds", "From a request to its first text", ("name", "version"), SECONDS)
        self.tokens = counter("tokens", "Tokens read and written", ("name", "version", "kind"))
        self.batches = histogram("batch_size", "Items of a pass", ("name",), SIZES)
        self.rejected = counter("rejected", "Requests refused before a model saw them", ("reason",))
        self.swaps = counter("swaps", "Versions that came, and those refused", ("name", "result"))
        self.shadows = counter("shadows", "Requests copied to a shadow, or left out", ("name", "result"))
        self.waiting = gauge("waiting", "Requests in a queue")
        self.engine = {figure: gauge(f"engine_{figure}", help) for figure, help in ENGINE.items()}
        self.dropped = Gauge("tsumugi_traffic_dropped", "Rows of traffic that were lost", registry=self.registry)

    def forget(self, name: str, version: str) -> None:
        """Drop the series of a version that serves no more: there is a new one for each promotion, without end."""
        for each in (self.seconds, self.first, self.tokens):
            each.remove_by_labels({"name": name, "version": version})
