# One rule that labels the cells of one sample. Include this file, or import it as a module:
#
#     module scbignn_infer:
#         snakefile: "scbignn_infer.smk"
#         config: config
#
#     use rule scbignn_infer_annotate from scbignn_infer with:
#         input: lambda wildcards: FILES[wildcards.sample]
#
# It reads four keys of the config: model, and if they are there threads, mem_mb and extra.


rule scbignn_infer_annotate:
    input:
        "queries/{sample}.h5ad",
    output:
        cells="labelled/{sample}.h5ad",
        record="labelled/{sample}.json",
    log:
        "logs/scbignn_infer/{sample}.log",
    conda:
        "environment.yaml"
    threads: config.get("threads", 2)
    resources:
        mem_mb=config.get("mem_mb", 4000),
    params:
        model=config["model"],
        extra=config.get("extra", ""),
    shell:
        "scbignn-infer annotate {input:q} --output {output.cells:q} --model {params.model:q}"
        " --threads {threads} --memory-limit {resources.mem_mb}MB {params.extra}"
        " --json > {output.record:q} 2> {log:q}"
