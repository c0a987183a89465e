"""vLLM as an engine: it keeps the cache and schedules; our loop runs inside its workers."""
import json, os, time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.generation.engines.vllm_worker.extension import KEY
from mi_lens.generation.jobs import Job
from mi_lens.generation.request import Request

EXTENSION = "mi_lens.generation.engines.vllm_worker.extension.WorkerExtension"


class VLLMEngine:
    def __init__(self, checkpoint, *, ends, dtype="float32", think="auto", **options):
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        import vllm
        self.ends=ends
        self.llm = vllm.LLM(model=str(checkpoint), dtype=dtype, enforce_eager=True, async_scheduling=False,
            worker_extension_cls=EXTENSION, **options)
        self.engine = self.llm.llm_engine
        settings = {"checkpoint": str(checkpoint), "think": think, "end_ids": sorted(ends)}
        print(self.engine.collective_rpc("mi_lens_begin", args=(json.dumps(settings),)))

    def run(self, jobs: Sequence[Job], requests: Sequence[Request], batch_size: int) -> Iterator[Job]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        conditions = {}
        running = {}
        for job in jobs:
            request = requests[job.index]
            settings = request.condition.to_json()
            key = content_hash(settings)
            if key not in conditions:
                conditions[key] = settings
                self.engine.collective_rpc("mi_lens_conditions", args=(json.dumps({key: settings}),))
            row = job.row
            edits = any(a.hook_names or a.recycled_layer is not None for a in job.actions)
            prompt = {"prompt_token_ids": [*row.prompt_ids, *row.token_ids]}
            extra = {"condition": key, "seed": row.seed, "limit": row.limit, "prefix": len(row.token_ids), "index": job.index}
            if edits:
                prompt["cache_salt"] = content_hash(extra)
            params = SamplingParams(temperature=0, max_tokens=row.limit-len(row.token_ids), detokenize=False,
                output_kind=RequestOutputKind.DELTA, ignore_eos=True,
                stop_token_ids=sorted(self.ends), extra_args={KEY: extra})
            name = self.engine.add_request(f"{job.index}", prompt, params)
            running[f"{job.index}"] = name, job
        while running:
            start = time.perf_counter()
            outputs = self.engine.step()
            share = (time.perf_counter()-start)/max(1,len(outputs))
            ended = []
            for output in outputs:
                name, job = running[output.request_id]
                job.seconds += share
                for token in output.outputs[0].token_ids:
                    job.accept(token, self.ends)
                if output.finished:
                    assert job.stop_reason, output
                    ended.append(output.request_id)
            if ended:
                text, *_ = self.engine.collective_rpc("mi_lens_ended", args=(json.dumps([running[e][0] for e in ended]),))
                for e, (failure, events) in zip(ended, json.loads(text)):
                    job = running.pop(e)[1]
                    job.row.events = events
                    yield job
