"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "d18d22753081c12be6e9319261ae9f4fbbdcc4603eb5328304bc5313ccdcc34d",
        # human-lung-cancer-lines
        "c4053b388d11aeb1260e4ba1dea61fcf07896cc59daf9bddb0a9512be1a517a9",
        # human-pancreas
        "880df643971f8dfac64f5c05613e2b8f2a1cc46004c087675e1fcee80b8dcd48",
        # human-pbmc
        "4febc2f7c0594dedf8c7f8b5f470132478552fdd2488b7a1a3383200c41672b2",
        # mouse-body
        "35bef5eec790578e149fb9c4cf92ff3aab79924e44f1e8983e0d1704888026c3",
        # mouse-pancreas
        "780316ac1e60b28210c1a890b0aa0f9141b170ad8ae8c6163aa88781d9b05dc1",
    }
)
