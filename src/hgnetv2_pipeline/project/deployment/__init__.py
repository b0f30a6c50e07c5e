"""The exported model as results: its folder, its kit, its answers, its latency."""
